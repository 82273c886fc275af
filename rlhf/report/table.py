"""The table of a comparison in Markdown: held-out results over seeds, and what each group of runs took."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from rlhf.report.against import LEGEND, baseline_of, standings
from rlhf.report.over_seeds import Axis, SeedGroup, area_under, read_groups
from rlhf.report.runs import Run, Target
from rlhf.statistics import over_seeds_text, t_interval


def table(
    paths: Sequence[Path],
    *,
    key: str | Sequence[str],
    metric: str,
    by: Axis = "steps",
    against: Path | None = None,
) -> str:
    """Markdown: before, after and mean height of the held-out curve with 95 % t-intervals over seeds; what it took.

    Of a group, both ends are steps that all of its seeds were evaluated at; heights are over the stretch that all
    groups have. Seconds are those of the steps, without evaluation, start and end; tokens those that were sampled or
    trained on; optimizer steps those of the policy. The intervals are over seeds alone: all runs are judged on the same
    problems, and others would give other values.

    Of several groups, how they stand against one of them comes behind.

    Args:
        key: config key or keys that name the groups.
        by: where the curves are read: at the same steps, or at the same number of sampled tokens or optimizer steps.
        against: a run of the group that the others are compared with; None: the first.
    """
    groups = read_groups(paths, key, by=by)
    name = key if isinstance(key, str) else ", ".join(key)
    targets = {t: None for group in groups for run in group.runs for t in run.evaluation if t.metric == metric}
    lines = []
    for target in targets:
        lines += [
            f"Held-out {metric} on {target.data}:",
            "",
            f"| {name} | before | after | seeds | mean over training | optimizer steps | seconds | tokens |",
            "|---|---|---|---|---|---|---|---|",
            *("| " + " | ".join(cells) + " |" for cells in _rows(groups, target)),
            "",
        ]
    if targets and by != "steps":
        spent = by.replace("_", " ")
        end = max(points[-1].step for run in groups[0].runs for points in run.evaluation.values())
        lines += [
            f"After: at {end:,} {spent}, the fewest of a run; between two evaluations lies a straight line.",
            "",
        ]
    if targets and len(groups) > 1:
        lines += _against(groups, list(targets), baseline_of(groups, against), name)
    return "\n".join(lines)


def _against(groups: Sequence[SeedGroup], targets: Sequence[Target], baseline: SeedGroup, name: str) -> list[str]:
    rows = [f"| {' | '.join(each.cells)} |" for each in standings(groups, targets, baseline)]
    if not rows:
        return []
    over = f", over {len(targets)} data sets" if len(targets) > 1 else ""
    return [
        f"Held-out {targets[0].metric} against {baseline.label}{over}:",
        "",
        f"| {name} | interquartile mean | minus {baseline.label} | probability of improvement |",
        "|---|---|---|---|",
        *rows,
        "",
        LEGEND,
        "",
    ]


def _rows(groups: Sequence[SeedGroup], target: Target) -> list[list[str]]:
    found = {group.label: [dict(run.evaluation.get(target, ())) for run in group.runs] for group in groups}
    curves = {label: [curve for curve in own if curve] for label, own in found.items()}
    end = min(max(curve) for own in curves.values() for curve in own)
    rows = []
    for group in groups:
        own = curves[group.label]
        shared = sorted(set.intersection(*map(set, own))) if own else []
        if not shared:
            rows.append([group.label, *["-"] * 7])
            continue
        bounds = (0.0, 1.0) if "accuracy" in target.metric else (-math.inf, math.inf)
        before, after = ([curve[step].value for curve in own] for step in (shared[0], shared[-1]))
        areas = [area_under([(step, curve[step].value) for step in sorted(curve)], end) for curve in own]
        heights = [area for area in areas if area is not None]
        steps = [_timed(run) for run in group.runs]
        rows.append([
            group.label,
            f"{fmean(before):.3f}",
            over_seeds_text(t_interval(after), bounds=bounds),
            ", ".join(f"{value:.3f}" for value in after),
            over_seeds_text(t_interval(heights), bounds=bounds) if heights else "-",
            _range(run.optimizer_steps for run in group.runs),
            f"{fmean(sum(seconds for seconds, _ in run) for run in steps):.0f}",
            f"{fmean(sum(tokens for _, tokens in run) for run in steps):,.0f}",
        ])  # fmt: skip
    return rows


def _timed(run: Run) -> list[tuple[float, float]]:
    """Seconds and tokens of each step."""
    seconds = [sum(v for k, v in row.items() if k.startswith("time/")) for row in run.metrics]
    speed = [row.get("speed/tokens_per_s", 0.0) for row in run.metrics]
    return [(s, s * rate) for s, rate in zip(seconds, speed, strict=True)]


def _range(counts: Iterable[int | None]) -> str:
    """One number where all runs have the same, else the least and the most; "-" where none was logged."""
    known = sorted({count for count in counts if count is not None})
    return "-" if not known else f"{known[0]}" if len(known) == 1 else f"{known[0]} to {known[-1]}"
