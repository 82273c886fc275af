"""The last stage: measure every policy, and write results.json, chain.png and chain.md."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.config import OptimizerStage
from pipeline.measure import Job, Proxy, measure_all
from pipeline.picture import write_picture
from pipeline.points import GOLD, PROXY, Curve, Point, Summary, best_of_points, form_of, summarize, trained_point
from pipeline.stages import Chain
from pipeline.table import table
from rlhf.atomic import write_whole
from rlhf.errors import UserError
from rlhf.run.checkpoints import all_of, step_of
from rlhf.run.sweep import Planned


def write_results(chains: Sequence[Chain], folder: Path, *, at_once: int, quiet: bool) -> str:
    """Measure, write results.json, samples.jsonl, chain.png and chain.md into `folder`; returns the table.

    Raises:
        UserError: a run is not finished, or has other weights than the start's.
    """
    lines = chains[0].config.optimizers
    jobs = [job for chain in chains for line, stage in lines.items() for job in jobs_of(chain, line, stage)]
    if not quiet:
        print(f"measuring {len(jobs)} policies", flush=True)
    measured = dict(zip(jobs, measure_all(jobs, at_once=at_once), strict=True))
    curves = []
    for line, stage in lines.items():
        seeds = {chain.seed: points_of(line, chain.seed, measured) for chain in chains}
        curves.append(Curve(stage.label, form_of(stage.trainer), seeds))
    summaries = {curve.name: summarize(curve) for curve in curves}
    text = table(curves, summaries)
    write_whole(folder / "results.json", json.dumps(as_json(curves, summaries), indent=1))
    write_whole(folder / "samples.jsonl", "".join(map(sample_line, measured.items())))
    write_whole(folder / "chain.md", text)
    panels = list(dict.fromkeys(panel for stage in lines.values() for panel in stage.panels))
    problems = chains[0].config.evaluation.problems
    over = f"means over {len(chains)} seeds with their 95 % t-intervals" if len(chains) > 1 else "one seed"
    write_picture(
        [
            (panel, [curve for curve, stage in zip(curves, lines.values(), strict=True) if panel in stage.panels])
            for panel in panels
        ],
        folder / "chain.png",
        title="What each optimizer makes of its reward model",
        subtitle=f"{over}; gold is the verifier, on {problems} held-out problems",
    )
    return f"{text}\npicture: {folder / 'chain.png'}"


def jobs_of(chain: Chain, line: str, stage: OptimizerStage) -> list[Job]:
    """The start, by which the proxy is normalized, and each checkpoint; or completions of the start for best-of-n.

    Raises:
        UserError: the run, or a reward model that scores it, is not finished.
    """
    config = chain.config
    for member in stage.members:
        refuse_unfinished(chain.reward_model(member, config.reward_models[member]))
    start = Job(
        line=line,
        seed=chain.seed,
        step=0,
        start=config.model_name,
        proxy=Proxy(tuple(str(chain.path_of_model(member)) for member in stage.members), stage.combine),
        task=config.task,
        task_config=config.task_config,
        problems=config.evaluation.problems,
        max_new_tokens=config.max_new_tokens,
    )
    if stage.trainer == "best_of_n":
        n = config.evaluation.best_of
        return [start, replace(start, step=n, completions=n, problems=config.evaluation.best_of_problems)]
    run = chain.optimizer(line, stage)
    refuse_unfinished(run)
    return [start, *(replace(start, step=step_of(path), checkpoint=str(path)) for path in all_of(run.path))]


def refuse_unfinished(run: Planned) -> None:
    if not run.done:
        raise UserError(
            f"{run.path}: the run is not finished, so nothing can be measured", "--stages all goes on with it."
        )


def points_of(line: str, seed: int, measured: Mapping[Job, Mapping[str, Any]]) -> list[Point]:
    own = {job: found for job, found in measured.items() if (job.line, job.seed) == (line, seed)}
    (start,) = [found for job, found in own.items() if job.step == 0]
    if several := [found for job, found in own.items() if job.completions > 1]:
        return best_of_points(several[0], start)
    return [trained_point(job.step, found, start) for job, found in own.items()]


def as_json(curves: Sequence[Curve], summaries: Mapping[str, Summary]) -> dict[str, Any]:
    """What the picture and the table show."""
    return {
        curve.name: {
            "form": curve.form.text,
            "summary": summaries[curve.name].as_json(),
            "points": [
                {"seed": seed, "step": point.step, "kl": point.kl, "n": len(point.gold)}
                | {reward: float(point.values(reward).mean()) for reward in (GOLD, PROXY)}
                for seed, points in curve.seeds.items()
                for point in points
            ],
        }
        for curve in curves
    }


def sample_line(measured: tuple[Job, Mapping[str, Any]]) -> str:
    """Completions of a policy with their rewards, to see what the cheat looks like; none of best-of-n."""
    job, found = measured
    shown = [
        {"question": question, "completion": text, GOLD: gold, PROXY: proxy}
        for (question, text), gold, proxy in zip(found.get("samples", ()), found[GOLD], found[PROXY], strict=False)
    ]
    return json.dumps({"line": job.line, "seed": job.seed, "step": job.step, "samples": shown}) + "\n" if shown else ""
