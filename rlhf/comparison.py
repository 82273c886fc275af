"""Many runs of one question: started one after the other, resumed where they were left, and laid side by side.

A family's `compare` command says which runs; here is what all of them do.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.errors import UserError, nearest

if TYPE_CHECKING:
    from rlhf.report_data import Group, Run, Target


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

    Of a group, both ends are steps that all of its seeds were evaluated at; heights are over the stretch that all
    groups have. Seconds are those of the steps, without evaluation, start and end; tokens those that were sampled or
    trained on. The intervals are over seeds alone: all runs are judged on the same problems, and others would give
    other values.
    """
    from rlhf.report_data import group_runs, read_run

    groups = group_runs([read_run(path) for path in paths], [key])
    targets = {t: None for group in groups for run in group.runs for t in run.evaluation if t.metric == metric}
    lines = []
    for target in targets:
        lines += [
            f"Held-out {metric} on {target.data}:",
            "",
            f"| {key} | before | after | seeds | mean over training | seconds | tokens |",
            "|---|---|---|---|---|---|---|",
            *("| " + " | ".join(cells) + " |" for cells in _rows(groups, target)),
            "",
        ]
    return "\n".join(lines)


def _rows(groups: "Sequence[Group]", target: "Target") -> list[list[str]]:
    from statistics import fmean

    from rlhf.report_data import area_under
    from rlhf.statistics import over_seeds_text, t_interval

    found = {group.label: [dict(run.evaluation.get(target, ())) for run in group.runs] for group in groups}
    curves = {label: [curve for curve in own if curve] for label, own in found.items()}
    end = min(max(curve) for own in curves.values() for curve in own)
    rows = []
    for group in groups:
        own = curves[group.label]
        shared = sorted(set.intersection(*map(set, own))) if own else []
        if not shared:
            rows.append([group.label, *["-"] * 6])
            continue
        before, after = ([curve[step].value for curve in own] for step in (shared[0], shared[-1]))
        areas = [area_under([(step, curve[step].value) for step in sorted(curve)], end) for curve in own]
        heights = [area for area in areas if area is not None]
        steps = [_timed(run) for run in group.runs]
        rows.append([
            group.label,
            f"{fmean(before):.3f}",
            over_seeds_text(t_interval(after), bounds=(0.0, 1.0)),
            ", ".join(f"{value:.3f}" for value in after),
            over_seeds_text(t_interval(heights), bounds=(0.0, 1.0)) if heights else "-",
            f"{fmean(sum(seconds for seconds, _ in run) for run in steps):.0f}",
            f"{fmean(sum(tokens for _, tokens in run) for run in steps):,.0f}",
        ])  # fmt: skip
    return rows


def _timed(run: "Run") -> list[tuple[float, float]]:
    """Seconds and tokens of each step."""
    seconds = [sum(v for k, v in row.items() if k.startswith("time/")) for row in run.metrics]
    speed = [row.get("speed/tokens_per_s", 0.0) for row in run.metrics]
    return [(s, s * rate) for s, rate in zip(seconds, speed, strict=True)]
