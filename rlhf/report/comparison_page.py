"""The page that compares several runs: held-out curves, training curves, settings that differ, and a table."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.report import charts, html, numbers
from rlhf.report.against import LEGEND, baseline_of, by_metric, standings
from rlhf.report.curves import POINTS_A_CHART, curve_in_words, curve_rows, described, panels, targets_of
from rlhf.report.html import Html, Page
from rlhf.report.over_seeds import (
    Axis,
    SeedGroup,
    area_under,
    differing_keys,
    held_out_over_seeds,
    over_seeds,
    read_groups,
    smooth,
)
from rlhf.report.runs import Point, Run, Target
from rlhf.statistics import Estimate, t_interval


def write_comparison(
    runs: Sequence[Path],
    output: Path,
    label: str | Sequence[str] = (),
    *,
    by: Axis = "steps",
    against: Path | None = None,
) -> Path:
    """Write one page that lays several runs on the same axes.

    Runs that differ only in their seed become one line, the mean over seeds, with its 95 % t-interval as a band.

    Args:
        runs: run directories.
        output: the HTML file to write.
        label: config key or keys that name the groups; without it, the fewest keys that tell them apart.
        by: what the curves are laid along, and where they are read: see `spent.py`.
        against: a run of the group that the others are compared with; None: the first.
    """
    return _comparison(read_groups(runs, label, by=by), by, against).write(Path(output))


def _comparison(groups: list[SeedGroup], by: Axis, against: Path | None) -> Page:
    runs = [run for group in groups for run in group.runs]
    targets = targets_of(runs)
    title = f"Comparison: {targets[0].name}" if targets else "Comparison"
    comparison = Page(title)
    labels = [group.label for group in groups]
    legend = html.legend(labels) if len(labels) > 1 else Html()
    band = band_in_words(groups)
    baseline = baseline_of(groups, against)
    spent = by.replace("_", " ")
    along = "" if by == "steps" else f"Along the {spent} of each run. "
    leads = {
        "held-out": f"{along}{band[0].upper()}{band[1:]}.",
        "against": LEGEND,
        "training": f"Smoothed within each run; then {band}.",
        "settings": "Settings that are not the same in all groups, apart from the seed.",
    }
    parts = {
        "held-out": ("Held-out evaluation", _compare_held_out(comparison, groups, targets, legend)),
        "against": (f"Against {baseline.label}", _against(groups, targets, baseline)),
        "training": ("Training", _compare_training(comparison, groups, legend)),
        "settings": ("What differs", _differences(groups)),
        "runs": ("Runs", _run_list(groups)),
    }
    shown = {place: part for place, part in parts.items() if part[1]}
    facts = {
        "Groups": len(groups),
        "Runs": len(runs),
        "Seeds a group": _range([len(g.runs) for g in groups]),
        spent.capitalize(): _range([run.last_step for run in runs]),
        "Model": ", ".join(sorted({str(r.config["model_name"]) for r in runs if r.config.get("model_name")})),
    }
    links = {place: name for place, (name, _) in shown.items()}
    comparison.add(
        html.header(title, "RLHF Lab · comparison", _standing(groups, targets), facts, links), Html("<main>")
    )
    for place, (name, content) in shown.items():
        comparison.add(html.section(place, name, content, lead=leads.get(place, "")))
    notes = _cautions(groups) + [f"{run.path}: {note}" for run in runs for note in run.notes]
    comparison.add(Html("</main>"), html.footer([], notes))
    return comparison


def _range(values: Sequence[int | None]) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return ""
    return f"{min(known)}" if min(known) == max(known) else f"{min(known)}–{max(known)}"


def band_in_words(groups: Sequence[SeedGroup]) -> str:
    """What the bands of the curves are."""
    counts = [len(group.runs) for group in groups]
    if max(counts) == 1:
        return "one seed a group, so no band over seeds"
    some_single = "; no band for a group of one seed" if min(counts) == 1 else ""
    return f"mean over {_range([c for c in counts if c > 1])} seeds with its 95 % t-interval{some_single}"


def _standing(groups: Sequence[SeedGroup], targets: Sequence[Target]) -> Html:
    """The final value of every group, in one sentence."""
    if not targets:
        return Html("None of these runs has a held-out evaluation; the training curves are below.")
    target = targets[0]
    finals = [(group, points[-1]) for group in groups if (points := held_out_over_seeds(group, target))]
    if not finals:
        return Html("The runs of each group share no evaluated step.")
    finals.sort(key=lambda pair: -pair[1].estimate.value)
    digits = numbers.decimals(point.estimate for _, point in finals)
    steps = _range([point.step for _, point in finals])

    def ended(group: SeedGroup, point: Point) -> Html:
        several = sum(target in run.evaluation for run in group.runs) > 1  # only intervals over seeds are comparable
        return html.markup(
            "{label} <b>{value}</b>{between}",
            label=group.label,
            value=numbers.fixed(point.estimate.value, digits),
            between=html.bracket(numbers.interval(point.estimate, digits) if several else ""),
        )

    listed = html.together((ended(*pair) for pair in finals), ", ")
    if len(finals) > 4:
        listed = html.markup("from {low} to {high}", low=ended(*finals[-1]), high=ended(*finals[0]))
    return html.markup("Held-out {metric} at step {steps}: {listed}.", metric=target.metric, steps=steps, listed=listed)


def group_rows(groups: Sequence[SeedGroup], target: Target) -> list[dict[str, Any]]:
    """Held-out curves of groups. A single seed has no band, which would be mistaken for a band over seeds."""
    rows = []
    for group in groups:
        points = held_out_over_seeds(group, target)
        if sum(target in run.evaluation for run in group.runs) > 1:
            rows += curve_rows(points, group.label, lambda e: f"{e.n} seeds")
        else:
            bare = [Point(step, e._replace(low=None, high=None)) for step, e in points]
            rows += curve_rows(bare, group.label, lambda e: f"{e.n:,} problems" if e.n else None)
    return rows


def _compare_held_out(comparison: Page, groups: list[SeedGroup], targets: Sequence[Target], legend: Html) -> Html:
    figures, tables = [], []
    for target in targets:
        rows = group_rows(groups, target)
        if not rows:
            continue
        if max(row["s"] for row in rows) > min(row["s"] for row in rows):
            curves = {group.label: held_out_over_seeds(group, target) for group in groups}
            words = "; ".join(curve_in_words(label, points) for label, points in curves.items() if points)
            note = f"on {target.data}" if target.data else ""
            spec = charts.curves(rows, list(curves), height=330)
            figures.append(comparison.figure(target.metric, spec, alt=f"Held-out {target.name}. {words}", note=note))
        if len(targets) > 1:
            tables.append(html.heading(target.name))
        tables.append(_standings_table(groups, target))
    if not tables:
        return Html()
    return html.together([legend, html.wide(figures), *tables, html.notes(_table_notes(groups))])


def _standings_table(groups: list[SeedGroup], target: Target) -> Html:
    """Final value, area under the curve, time and tokens of each group, with 95 % intervals over its seeds."""
    points = [held_out_over_seeds(group, target) for group in groups]
    # Areas are only comparable over the same stretch of training: up to the last step that all groups reached.
    end = min((p[-1].step for p in points if p), default=0)
    finals = [p[-1].estimate if p else None for p in points]
    areas = [_area(group, target, end) for group in groups]
    digits = numbers.decimals([*finals, *areas])
    rows = []
    for i, (group, curve) in enumerate(zip(groups, points, strict=True)):
        runs = [run for run in group.runs if target in run.evaluation]
        last = curve[-1].step if curve else None
        problems = [p.estimate.n for run in runs for p in run.evaluation[target] if p.step == last and p.estimate.n]
        final = html.estimate_cell(finals[i], digits)
        if len(runs) == 1 and numbers.interval(curve[-1].estimate, digits):
            final = html.markup("{final}<sup>†</sup>", final=final)
        rows.append([
            html.together([html.swatch(i), group.label]) if len(groups) > 1 else group.label,
            len(runs),
            final,
            numbers.number(sum(problems)) if problems else "–",
            "–" if last is None else last,
            html.estimate_cell(areas[i], digits) if areas[i] else "–",
            _range([run.optimizer_steps for run in group.runs]) or "–",
            numbers.duration(_mean(run.seconds for run in group.runs)),
            numbers.magnitude(_mean(run.tokens for run in group.runs)),
        ])  # fmt: skip
    final, mean = f"Final {target.metric}", f"Mean to step {end}"
    return html.table(
        ["Group", "Seeds", final, "Problems, pooled", "At step", mean, "Optimizer steps", "Time", "Tokens"], rows
    )


def _area(group: SeedGroup, target: Target, end: int) -> Estimate | None:
    """Mean height of the held-out curve up to step `end`, over seeds."""
    evaluated = [run.evaluation[target] for run in group.runs if target in run.evaluation]
    curves = [[(p.step, p.estimate.value) for p in points] for points in evaluated]
    areas = [area for curve in curves if (area := area_under(curve, end)) is not None]
    return t_interval(areas) if areas else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _table_notes(groups: Sequence[SeedGroup]) -> list[str]:
    notes = ["“Mean to step” is the area under the held-out curve divided by its length: it rewards learning early."]
    if any(len(group.runs) > 1 for group in groups):
        notes.append(
            "Brackets are t-intervals over seeds: mean ± t · s / √k for k seeds. All are judged on the same problems, "
            "so what other problems would change is not in them. Time and tokens are means over seeds."
        )
    if any(len(group.runs) == 1 for group in groups):
        notes.append("† One seed: the interval is over its held-out problems and says nothing about other seeds.")
    return notes


def _against(groups: Sequence[SeedGroup], targets: Sequence[Target], baseline: SeedGroup) -> Html:
    """One table a metric: interquartile mean, paired difference, probability of improvement."""
    if len(groups) < 2:
        return Html()
    tables = []
    for metric, own in by_metric(targets).items():
        if rows := [each.cells for each in standings(groups, own, baseline)]:
            columns = ["Group", "Interquartile mean", f"Minus {baseline.label}", "Probability of improvement"]
            tables += [html.heading(metric), html.table(columns, rows)]
    return html.together(tables)


def _compare_training(comparison: Page, groups: list[SeedGroup], legend: Html) -> Html:
    runs = [run for group in groups for run in group.runs]
    labels = [group.label for group in groups]

    def draw(name: str) -> Html:
        rows = []
        for group in groups:
            curves = [curve for run in group.runs if (curve := _smoothed(run, name))]
            count = len(curves)
            origin = f"{count} seeds" if count > 1 else None
            points = _every(over_seeds(curves), POINTS_A_CHART // 2)
            rows += curve_rows(points, group.label, lambda _, origin=origin: origin)
        if not rows:
            return Html()
        unit, description = described(runs, name)
        alt = f"{name} by training step, {len(labels)} groups: {', '.join(labels)}"
        spec = charts.curves(rows, labels, height=150, points=False)
        return comparison.figure(name, spec, alt=alt, note=description, unit=unit)

    drawn = panels(runs, draw)
    return html.together([legend, drawn]) if drawn else Html()


def _smoothed(run: Run, name: str) -> dict[int, float]:
    steps, values = run.series(name)
    if not len(steps):
        return {}
    kept = np.array(_every(list(range(len(steps))), 2 * POINTS_A_CHART))
    return dict(zip(map(int, steps[kept]), smooth(steps, values, steps[kept]).tolist(), strict=True))


def _every[T](points: list[T], keep: int) -> list[T]:
    """About `keep` points at even distances, the first and the last among them."""
    if len(points) <= keep:
        return points
    return [points[i] for i in np.unique(np.linspace(0, len(points) - 1, keep).round().astype(int))]


def _differences(groups: Sequence[SeedGroup]) -> Html:
    configs = [group.runs[0].config for group in groups]
    different = differing_keys(configs)
    if not different:
        return Html()
    rows = [[key, *(html.plain(c[key]) if key in c else "(not set)" for c in configs)] for key in different]
    return html.table(["Key", *(group.label for group in groups)], rows)


def _run_list(groups: Sequence[SeedGroup]) -> Html:
    rows = [
        [run.path.resolve().name, group.label, "–" if run.seed is None else run.seed,
         "–" if run.last_step is None else run.last_step, numbers.duration(run.seconds), run.commit or "–"]
        for group in groups for run in group.runs
    ]  # fmt: skip
    commands = [
        str(run.provenance["command"]) for group in groups for run in group.runs if run.provenance.get("command")
    ]
    parts = [html.table(["Run", "Group", "Seed", "Last step", "Time", "Commit"], rows, text_columns=2)]
    if commands:
        parts += [html.heading("Run them again"), html.command("\n".join(dict.fromkeys(commands)))]
    return html.together(parts)


def _cautions(groups: Sequence[SeedGroup]) -> list[str]:
    """Reasons why these runs are less comparable than they look."""
    runs = [run for group in groups for run in group.runs]
    found = []
    for key, what in (("git_commit", "different commits of the code"), ("data_fingerprint", "different data")):
        if len({str(run.provenance[key]) for run in runs if run.provenance.get(key)}) > 1:
            found.append(f"These runs come from {what}.")
    for group in groups:
        seeds = [str(run.seed) for run in group.runs if run.seed is not None]
        if len(seeds) > len(set(seeds)):
            found.append(f"{group.label}: the same seed is there more than once, so its interval is too narrow.")
        ends = {run.last_step for run in group.runs}
        if len(ends) > 1:
            found.append(
                f"{group.label}: not all runs reached the same step; means stop at the last one that all share."
            )
    return found
