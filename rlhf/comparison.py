"""Many runs of one question: started one after the other, resumed where they were left, and laid side by side.

A family's `compare` command says which runs; here is what all of them do.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.errors import UserError, nearest


@dataclass(frozen=True)
class Planned:
    """A run to make: `python -m module *arguments --output_dir path`."""

    label: str
    path: Path
    module: str
    arguments: Sequence[str]

    @property
    def done(self) -> bool:
        return (self.path / "final").is_dir()

    @property
    def command(self) -> list[str]:
        started = (self.path / "config.yaml").is_file()
        resume = ["--resume"] if started else []
        return ["-m", self.module, *self.arguments, "--output_dir", str(self.path), "--quiet", *resume]


def choose(option: str, given: str, names: Sequence[str], *, seeds: int) -> list[str]:
    """The names that `--algorithms all` or `--algorithms a,b` mean.

    Raises:
        UserError: there is no such name, or not even one seed.
    """
    chosen = list(names) if given == "all" else given.split(",")
    for name in chosen:
        if name not in names:
            raise UserError(f"{option}: there is no '{name}': {nearest(name, names)}".rstrip(": "))
    if seeds < 1:
        raise UserError(f"--seeds: at least 1, not {seeds}")
    return chosen


def refuse_unequal(budgets: Mapping[str, Mapping[str, Any]]) -> None:
    """`budgets`: for each name the settings that must be the same for a comparison on equal terms.

    Raises:
        UserError: they differ.
    """
    (first, wanted), *others = budgets.items()
    for name, budget in others:
        for key, value in budget.items():
            if value != wanted[key]:
                raise UserError(
                    f"{key}: {name} has {value}, {first} has {wanted[key]}: no equal terms",
                    hint=f"Set it for all: --{key} VALUE.",
                )


def make_all(planned: Sequence[Planned]) -> None:
    """Make the runs that are not there yet, each in a process of its own.

    Raises:
        UserError: a run failed. The others are kept: the same command goes on from there.
    """
    for number, run in enumerate(planned, start=1):
        where = f"[{number}/{len(planned)}] {run.path}"
        if run.done:
            print(f"{where}: there already", flush=True)
            continue
        print(f"{where}: {run.label}", flush=True)
        done = subprocess.run([sys.executable, *run.command], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            print(done.stdout, end="")
            raise UserError(
                f"{run.path} ended with exit code {done.returncode}; its message is above",
                hint="The same command goes on from here.",
            )


def write_all(planned: Sequence[Planned], folder: Path, *, key: str, metric: str = "accuracy") -> str:
    """Write comparison.html, comparison.png and comparison.md into `folder`; returns the table.

    `key`: the config key that names the lines, such as `algorithm`. Runs that differ only in their seed are one line.
    """
    from rlhf.report import write_comparison, write_png

    paths = [run.path for run in planned]
    write_comparison(paths, folder / "comparison.html", key)
    write_png(paths, folder / "comparison.png", key)
    text = table(paths, key=key, metric=metric)
    (folder / "comparison.md").write_text(text)
    return text


def table(paths: Sequence[Path], *, key: str, metric: str) -> str:
    """Markdown: before, after and mean height of the held-out curve with 95 % t-intervals over seeds, seconds, tokens.

    Seconds are those of the steps, without evaluation, start and end; tokens those that were sampled or trained on.
    """
    from statistics import fmean

    from rlhf.report_data import Run, area_under, group_runs, read_run, t_interval

    def timed(run: Run) -> list[tuple[float, float]]:
        """Seconds and tokens of each step."""
        seconds = [sum(v for k, v in row.items() if k.startswith("time/")) for row in run.metrics]
        speed = [row.get("speed/tokens_per_s", 0.0) for row in run.metrics]
        return [(s, s * rate) for s, rate in zip(seconds, speed, strict=True)]

    groups = group_runs([read_run(path) for path in paths], [key])
    targets = {t: None for group in groups for run in group.runs for t in run.evaluation if t.metric == metric}
    lines = []
    for target in targets:
        lines += [
            f"Held-out {metric} on {target.data}:",
            "",
            f"| {key} | before | after | seeds | mean over training | seconds | tokens |",
            "|---|---|---|---|---|---|---|",
        ]
        for group in groups:
            curves = [run.evaluation[target] for run in group.runs if target in run.evaluation]
            values = [curve[-1].estimate.value for curve in curves]
            end = min(curve[-1].step for curve in curves)
            heights = [area_under([(p.step, p.estimate.value) for p in curve], end) or 0.0 for curve in curves]
            steps = [timed(run) for run in group.runs]
            cells = [
                group.label,
                f"{fmean(curve[0].estimate.value for curve in curves):.3f}",
                _interval(t_interval(values)),
                ", ".join(f"{value:.3f}" for value in values),
                _interval(t_interval(heights)),
                f"{fmean(sum(s for s, _ in run) for run in steps):.0f}",
                f"{fmean(sum(t for _, t in run) for run in steps):,.0f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _interval(estimate) -> str:
    if estimate.low is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{max(0.0, estimate.low):.3f}, {min(1.0, estimate.high):.3f}]"
