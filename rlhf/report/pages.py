"""Turn run directories into pages: one run into its report, several runs and seeds into a comparison.

    python -m rlhf.report runs/grpo                                 writes runs/grpo/report.html
    python -m rlhf.report runs/grpo-* runs/rloo-* --png curves.png  writes comparison.html and a picture

Each page is one file that needs no network. Reading and statistics are in `runs`, charts in `charts`, HTML in `html`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.errors import UserError
from rlhf.report import charts
from rlhf.report import html as page
from rlhf.report.charts import Panel
from rlhf.report.html import Html, Page
from rlhf.report.runs import (
    Estimate,
    Group,
    Point,
    Run,
    Target,
    area_under,
    differing_keys,
    group_runs,
    held_out_over_seeds,
    is_number,
    over_seeds,
    read_run,
    smooth,
    t_interval,
    thin,
)

POINTS_A_CHART = 180
SAMPLES_A_STEP = 4

# Panels in this order; prefixes that are not named here come in between, as they were logged.
FIRST_PREFIXES = ("", "loss", "reward", "groups", "policy", "length")
LAST_PREFIXES = ("sampler", "optim", "speed", "time", "memory")


def write_report(run: Path, output: Path | None = None) -> Path:
    """Write `run/report.html`, or `output`.

    The page shows result, advice, held-out evaluation, training curves, samples, config and environment.
    """
    return _report(read_run(run)).write(output or Path(run) / "report.html")


def write_comparison(runs: Sequence[Path], output: Path, label: str | Sequence[str] = ()) -> Path:
    """Write one page that lays several runs on the same axes.

    Runs that differ only in their seed become one line, the mean over seeds, with its 95 % t-interval as a band.

    Args:
        runs: run directories.
        output: the HTML file to write.
        label: config key or keys that name the groups; without it, the fewest keys that tell them apart.
    """
    return _comparison(_read_groups(runs, label)).write(Path(output))


def write_png(runs: Sequence[Path], output: Path, label: str | Sequence[str] = ()) -> Path:
    """Write the held-out curves of one or several runs as a picture for a README."""
    groups = _read_groups(runs, label)
    targets = _targets(run for group in groups for run in group.runs)
    if not targets:
        raise UserError("no held-out evaluation to draw: none of the runs has a readable eval.jsonl")
    targets = [t for t in targets if t.metric == targets[0].metric][:3]
    metric = targets[0].metric
    single = len(groups) == 1 and len(groups[0].runs) == 1
    if single:  # one run: its data sets are the lines
        labels = [t.data or metric for t in targets]
        panels = [Panel("", metric, _held_out_rows(groups[0].runs[0], targets), labels)]
        title, about = groups[0].runs[0].title, "95 % interval over the held-out problems"
    else:
        labels = [group.label for group in groups]
        panels = [Panel(t.data if len(targets) > 1 else "", metric, _group_rows(groups, t), labels) for t in targets]
        title = f"Held-out {metric}" + (f" on {targets[0].data}" if len(targets) == 1 and targets[0].data else "")
        about = _band(groups)
    return charts.write_png(charts.held_out_figure(panels, title=title, subtitle=about), Path(output))


# ---------------------------------------------------------------------------------------------------------- one run


def _report(run: Run) -> Page:
    report = Page(run.title)
    parts = {  # in the order of the page; parts with nothing to show are left out
        "advice": ("Advice", page.advice(run.advice) if run.advice else Html()),
        "held-out": ("Held-out evaluation", _evaluation(report, run)),
        "training": ("Training", _training(report, run)),
        "samples": ("Samples", _samples(run)),
        "config": ("Configuration", _config(run)),
        "environment": ("Environment", _environment(run)),
    }
    leads = {
        "held-out": "On problems that training never sees. Bands and brackets are 95 % intervals over the problems.",
        "training": "Points are the logged values, the line is their smoothed course. Horizontal axis: training step.",
        "samples": "What the model wrote at the first and at the last recorded step, as it was scored.",
        "environment": "What ran, on what, and how to run it again.",
    }
    shown = {place: part for place, part in parts.items() if part[1]}
    config, provenance = run.config, run.provenance
    speed = run.series("speed/tokens_per_s")[1]
    facts = {
        "Algorithm": config.get("algorithm") or config.get("loss"),
        "Model": config.get("model_name"),
        "Data": _joined(config.get("task") or config.get("tasks") or config.get("data") or config.get("dataset")),
        "Steps": run.last_step,
        "Time": page.duration(run.seconds) if run.seconds is not None else None,
        "Tokens/s": page.magnitude(float(np.median(speed))) if len(speed) else None,
        "Profile": provenance.get("profile"),
        "Seed": run.seed,
    }
    links = {place: title for place, (title, _) in shown.items()}
    report.add(page.header(run.title, "RLHF Lab · run report", _result(run), facts, links), Html("<main>"))
    for place, (title, content) in shown.items():
        report.add(page.section(place, title, content, lead=leads.get(place, "")))
    report.add(Html("</main>"), page.footer([f"Run directory: {run.path.resolve()}"], run.notes))
    return report


def _joined(value: object) -> object:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _result(run: Run) -> Html:
    """The run in one sentence."""
    target = next(iter(_targets([run])), None)
    steps, seconds = run.last_step, run.seconds
    after = f" after {steps} steps" if steps else ""
    after += f" in {page.duration(seconds)}" if after and seconds else ""
    if target:
        points = run.evaluation[target]
        first, last = points[0], points[-1]
        digits = page.decimals([first.estimate, last.estimate])
        change = page.fixed(last.estimate.value, digits)
        if last.step > first.step:
            change = f"{page.fixed(first.estimate.value, digits)} → {change}"
        between = page.interval(last.estimate, digits)
        where = f" on {target.data}" if target.data and target.data not in run.title else ""
        if steps and last.step != steps:
            after = f" at step {last.step} of {steps}" + (f", {page.duration(seconds)} in all" if seconds else "")
        return page.markup(
            "Held-out {metric}{where} <b>{change}</b>{between}{after}.",
            metric=target.metric,
            where=where,
            change=change,
            between=_bracket(between),
            after=after,
        )
    for name in [*_headline(run), "reward/mean", "loss"]:
        values = run.series(name)[1]
        if len(values):
            edge = max(1, len(values) // 10)
            first, last = (page.number(float(part.mean())) for part in (values[:edge], values[-edge:]))
            return page.markup(
                "No held-out evaluation. In training, {name} <b>{first} → {last}</b>{after}.",
                name=name,
                first=first,
                last=last,
                after=after,
            )
    return Html("Nothing was measured in this run.")


def _bracket(interval: str) -> Html:
    return page.markup(' <span class="interval">{interval}</span>', interval=interval) if interval else Html()


def _targets(runs: Iterable[Run]) -> list[Target]:
    """What was evaluated, the first to be recorded first."""
    return list({target: None for run in runs for target in run.evaluation})


def _evaluation(report: Page, run: Run) -> Html:
    targets = _targets([run])
    if not targets:
        return Html()
    names = list({t.data or t.metric: None for t in targets})
    figures = []
    for metric in {t.metric: None for t in targets}:
        chosen = [t for t in targets if t.metric == metric]
        rows = _held_out_rows(run, chosen)
        if max(row["s"] for row in rows) == min(row["s"] for row in rows):
            continue  # a single evaluation is no curve: the table says it all
        # Every chart keeps all names, so that one colour means one data set on the whole page.
        spec = charts.curves(rows, names, height=280)
        alt = "; ".join(_curve_in_words(t.name, run.evaluation[t]) for t in chosen)
        note = "" if len(names) > 1 else f"on {chosen[0].data}" if chosen[0].data else ""
        figures.append(report.figure(metric, spec, alt=f"Held-out curve. {alt}", note=note))
    table = []
    for t in targets:
        first, last = run.evaluation[t][0], run.evaluation[t][-1]
        digits = page.decimals([first.estimate, last.estimate])
        moved = last.step > first.step
        table.append([
            t.data or "–",
            t.metric,
            page.estimate_cell(first.estimate, digits) if moved else "–",
            page.estimate_cell(last.estimate, digits),
            page.fixed(last.estimate.value - first.estimate.value, digits, sign=True) if moved else "–",
            f"{first.step} → {last.step}" if moved else last.step,
            page.number(last.estimate.n),
        ])  # fmt: skip
    head = ["Data", "Metric", "Before", "After", "Change", "Step", "Problems"]
    legend = page.legend(names) if len(names) > 1 and figures else Html()
    return page.together([legend, page.wide(figures), page.table(head, table, text_columns=2)])


def _held_out_rows(run: Run, targets: Sequence[Target]) -> list[dict[str, Any]]:
    return [
        row
        for t in targets
        for row in _rows(run.evaluation[t], t.data or t.metric, lambda e: f"{e.n:,} problems" if e.n else None)
    ]


def _rows(points: Iterable[Point], label: str, origin: Callable[[Estimate], str | None]) -> list[dict[str, Any]]:
    """Points as rows for `charts.curves`."""
    rows = []
    for step, e in points:
        row = {"g": label, "s": step, "v": _short(e.value), "l": _short(e.low), "h": _short(e.high), "n": origin(e)}
        rows.append({k: v for k, v in row.items() if v is not None})
    return rows


def _short(value: float | None) -> float | None:
    """Five digits are more than a chart can show, and keep the page small."""
    return None if value is None or not is_number(value) else float(f"{value:.5g}")


def _curve_in_words(name: str, points: Sequence[Point]) -> str:
    return _in_words(name, [p.step for p in points], [p.estimate.value for p in points])


def _in_words(name: str, steps: Sequence[float], values: Sequence[float]) -> str:
    """A curve for those who cannot see it."""
    first, last, low, high = map(page.number, (values[0], values[-1], min(values), max(values)))
    return f"{name}: {first} at step {steps[0]:.0f}, {last} at step {steps[-1]:.0f}, lowest {low}, highest {high}"


def _headline(run: Run) -> list[str]:
    wanted = run.provenance.get("headline")
    measured = run.metric_names()
    return [name for name in wanted if name in measured] if isinstance(wanted, list) else []


def _by_prefix(names: Iterable[str]) -> dict[str, list[str]]:
    """Metrics under the word before their slash, what is learned first and what it cost last."""
    grouped: dict[str, list[str]] = {}
    for name in names:
        grouped.setdefault(name.split("/")[0] if "/" in name else "", []).append(name)
    between = [p for p in grouped if p not in (*FIRST_PREFIXES, *LAST_PREFIXES)]
    return {p: grouped[p] for p in (*FIRST_PREFIXES, *between, *LAST_PREFIXES) if p in grouped}


def _panels(names: Sequence[str], headline: Sequence[str], draw: Callable[[str], Html]) -> Html:
    """The headline metrics, then the rest by prefix, as small multiples."""
    first = [name for name in headline if name in names]
    blocks = [page.block("Headline", [draw(name) for name in first])]
    for prefix, members in _by_prefix(name for name in names if name not in first).items():
        title = prefix.capitalize() or ("Loss" if all("loss" in name for name in members) else "Overall")
        blocks.append(page.block(title, [draw(name) for name in members]))
    return page.blocks(blocks)


def _training(report: Page, run: Run) -> Html:
    if not run.metrics:
        return Html()

    def draw(name: str) -> Html:
        steps, values = run.series(name)
        kept = thin(values, POINTS_A_CHART)
        smoothed = smooth(steps, values, steps[kept])
        shown = zip(steps[kept], values[kept], smoothed, strict=True)
        rows = [{"s": int(s), "v": _short(v), "m": _short(m)} for s, v, m in shown]
        unit, description = _described([run], name)
        alt = _in_words(name, steps.tolist(), values.tolist())
        last = page.number(float(smoothed[-1]))
        return report.figure(name, charts.training(rows, unit=unit), alt=alt, note=description, unit=unit, last=last)

    never = run.unmeasured()
    note = [f"Logged without a value: {', '.join(never)}."] if never else []
    return page.together([_panels(run.metric_names(), _headline(run), draw), page.notes(note)])


def _described(runs: Iterable[Run], name: str) -> tuple[str, str]:
    """Unit and description of a metric, as the run documents it."""
    for run in runs:
        documented = run.provenance.get("metrics")
        about = documented.get(name) if isinstance(documented, dict) else None
        if isinstance(about, dict):
            return str(about.get("unit") or ""), str(about.get("description") or "")
    return "", ""


def _samples(run: Run) -> Html:
    """The first and the last step, with the same prompts side by side where both have them."""
    if not run.samples:
        return Html()
    steps = list(dict.fromkeys((run.samples[0]["step"], run.samples[-1]["step"])))
    columns = [[row for row in run.samples if row["step"] == step] for step in steps]
    shared = set.intersection(*({str(row.get("prompt")) for row in rows} for rows in columns))
    return page.samples(
        {step: _chosen(rows, shared)[:SAMPLES_A_STEP] for step, rows in zip(steps, columns, strict=True)}
    )


def _chosen(rows: list[dict[str, Any]], shared: set[str]) -> list[dict[str, Any]]:
    """Shared prompts first, in one order, and each prompt once before any comes again."""
    count: Counter[str] = Counter()
    ranked = []
    for row in rows:
        prompt = str(row.get("prompt"))
        ranked.append(((prompt not in shared, count[prompt], prompt if prompt in shared else ""), row))
        count[prompt] += 1
    return [row for _, row in sorted(ranked, key=lambda pair: pair[0])]


def _config(run: Run) -> Html:
    if not run.config:
        return Html()
    return page.folded(f"All {len(run.config)} settings, as resolved (config.yaml)", page.keys(run.config))


def _environment(run: Run) -> Html:
    given = run.provenance
    if not given:
        return Html()
    started = str(given.get("started") or "").replace("T", " ")
    facts = {
        "started": started,
        "git commit": _commit(run),
        "seed": given.get("seed"),
        "profile": given.get("profile"),
        "processes": given.get("processes"),
        "data fingerprint": given.get("data_fingerprint"),
    }
    host = given.get("host") if isinstance(given.get("host"), dict) else {"host": given.get("host")}
    facts |= {f"host: {k}" if k != "host" else k: v for k, v in (host or {}).items()}
    versions = given.get("versions")
    parts = [page.keys({k: v for k, v in facts.items() if v not in (None, "")})]
    if isinstance(versions, dict) and versions:
        folded = page.folded("Package versions", page.keys({str(name): v for name, v in versions.items()}))
        parts.append(page.markup('<div style="margin-top: 10px">{folded}</div>', folded=folded))
    if given.get("command"):
        parts += [page.heading("Run it again"), page.command(str(given["command"]))]
    return page.together(parts)


def _commit(run: Run) -> str:
    commit = str(run.provenance.get("git_commit") or "")
    return f"{commit[:12]} with uncommitted changes" if commit and run.provenance.get("git_dirty") else commit[:12]


# ------------------------------------------------------------------------------------------------------- comparison


def _read_groups(runs: Sequence[Path], label: str | Sequence[str]) -> list[Group]:
    keys = [label] if isinstance(label, str) else list(label)
    unique = list({Path(run).resolve(): Path(run) for run in runs}.values())  # the same directory twice is one run
    if not unique:
        raise UserError("no runs to compare", hint="name one or more run directories")
    return group_runs([read_run(run) for run in unique], keys)


def _comparison(groups: list[Group]) -> Page:
    runs = [run for group in groups for run in group.runs]
    targets = _targets(runs)
    title = f"Comparison: {targets[0].name}" if targets else "Comparison"
    comparison = Page(title)
    labels = [group.label for group in groups]
    legend = page.legend(labels) if len(labels) > 1 else Html()
    band = _band(groups)
    leads = {
        "held-out": f"{band[0].upper()}{band[1:]}.",
        "training": f"Smoothed within each run; then {band}.",
        "settings": "Settings that are not the same in all groups, apart from the seed.",
    }
    parts = {
        "held-out": ("Held-out evaluation", _compare_held_out(comparison, groups, targets, legend)),
        "training": ("Training", _compare_training(comparison, groups, legend)),
        "settings": ("What differs", _differences(groups)),
        "runs": ("Runs", _run_list(groups)),
    }
    shown = {place: part for place, part in parts.items() if part[1]}
    facts = {
        "Groups": len(groups),
        "Runs": len(runs),
        "Seeds a group": _range([len(g.runs) for g in groups]),
        "Steps": _range([run.last_step for run in runs]),
        "Model": _joined(sorted({str(r.config["model_name"]) for r in runs if r.config.get("model_name")})),
    }
    links = {place: name for place, (name, _) in shown.items()}
    comparison.add(
        page.header(title, "RLHF Lab · comparison", _standing(groups, targets), facts, links), Html("<main>")
    )
    for place, (name, content) in shown.items():
        comparison.add(page.section(place, name, content, lead=leads.get(place, "")))
    notes = _cautions(groups) + [f"{run.path}: {note}" for run in runs for note in run.notes]
    comparison.add(Html("</main>"), page.footer([], notes))
    return comparison


def _range(values: Sequence[int | None]) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return ""
    return f"{min(known)}" if min(known) == max(known) else f"{min(known)}–{max(known)}"


def _band(groups: Sequence[Group]) -> str:
    counts = [len(group.runs) for group in groups]
    if max(counts) == 1:
        return "one seed a group, so no band over seeds"
    some_single = "; no band for a group of one seed" if min(counts) == 1 else ""
    return f"mean over {_range([c for c in counts if c > 1])} seeds with its 95 % t-interval{some_single}"


def _standing(groups: Sequence[Group], targets: Sequence[Target]) -> Html:
    """Where the groups ended, in one sentence."""
    if not targets:
        return Html("None of these runs has a held-out evaluation; the training curves are below.")
    target = targets[0]
    finals = [(group, points[-1]) for group in groups if (points := held_out_over_seeds(group, target))]
    if not finals:
        return Html("The runs of each group share no evaluated step.")
    finals.sort(key=lambda pair: -pair[1].estimate.value)
    digits = page.decimals(point.estimate for _, point in finals)
    steps = _range([point.step for _, point in finals])

    def ended(group: Group, point: Point) -> Html:
        several = sum(target in run.evaluation for run in group.runs) > 1  # only intervals over seeds are comparable
        return page.markup(
            "{label} <b>{value}</b>{between}",
            label=group.label,
            value=page.fixed(point.estimate.value, digits),
            between=_bracket(page.interval(point.estimate, digits) if several else ""),
        )

    listed = page.together((ended(*pair) for pair in finals), ", ")
    if len(finals) > 4:
        listed = page.markup("from {low} to {high}", low=ended(*finals[-1]), high=ended(*finals[0]))
    return page.markup("Held-out {metric} at step {steps}: {listed}.", metric=target.metric, steps=steps, listed=listed)


def _group_rows(groups: Sequence[Group], target: Target) -> list[dict[str, Any]]:
    """Held-out curves of groups. One seed gets no band: beside bands over seeds it would be read as one of them."""
    rows = []
    for group in groups:
        points = held_out_over_seeds(group, target)
        if sum(target in run.evaluation for run in group.runs) > 1:
            rows += _rows(points, group.label, lambda e: f"{e.n} seeds")
        else:
            bare = [Point(step, e._replace(low=None, high=None)) for step, e in points]
            rows += _rows(bare, group.label, lambda e: f"{e.n:,} problems" if e.n else None)
    return rows


def _compare_held_out(comparison: Page, groups: list[Group], targets: Sequence[Target], legend: Html) -> Html:
    figures, tables = [], []
    for target in targets:
        rows = _group_rows(groups, target)
        if not rows:
            continue
        if max(row["s"] for row in rows) > min(row["s"] for row in rows):
            curves = {group.label: held_out_over_seeds(group, target) for group in groups}
            words = "; ".join(_curve_in_words(label, points) for label, points in curves.items() if points)
            note = f"on {target.data}" if target.data else ""
            spec = charts.curves(rows, list(curves), height=330)
            figures.append(comparison.figure(target.metric, spec, alt=f"Held-out {target.name}. {words}", note=note))
        if len(targets) > 1:
            tables.append(page.heading(target.name))
        tables.append(_standings_table(groups, target))
    if not tables:
        return Html()
    return page.together([legend, page.wide(figures), *tables, page.notes(_table_notes(groups))])


def _standings_table(groups: list[Group], target: Target) -> Html:
    """Final value, area under the curve, time and tokens of each group, with 95 % intervals over its seeds."""
    points = [held_out_over_seeds(group, target) for group in groups]
    # Areas are only comparable over the same stretch of training: up to the last step that all groups reached.
    end = min((p[-1].step for p in points if p), default=0)
    finals = [p[-1].estimate if p else None for p in points]
    areas = [_area(group, target, end) for group in groups]
    digits = page.decimals([*finals, *areas])
    rows = []
    for i, (group, curve) in enumerate(zip(groups, points, strict=True)):
        runs = [run for run in group.runs if target in run.evaluation]
        last = curve[-1].step if curve else None
        problems = [p.estimate.n for run in runs for p in run.evaluation[target] if p.step == last and p.estimate.n]
        final = page.estimate_cell(finals[i], digits)
        if len(runs) == 1 and page.interval(curve[-1].estimate, digits):
            final = page.markup("{final}<sup>†</sup>", final=final)
        rows.append([
            page.together([page.swatch(i), group.label]) if len(groups) > 1 else group.label,
            len(runs),
            final,
            page.number(sum(problems)) if problems else "–",
            "–" if last is None else last,
            page.estimate_cell(areas[i], digits) if areas[i] else "–",
            page.duration(_mean(run.seconds for run in group.runs)),
            page.magnitude(_mean(run.tokens for run in group.runs)),
        ])  # fmt: skip
    final, mean = f"Final {target.metric}", f"Mean to step {end}"
    return page.table(["Group", "Seeds", final, "Problems, pooled", "At step", mean, "Time", "Tokens"], rows)


def _area(group: Group, target: Target, end: int) -> Estimate | None:
    """Mean height of the held-out curve up to step `end`, over seeds."""
    evaluated = [run.evaluation[target] for run in group.runs if target in run.evaluation]
    curves = [[(p.step, p.estimate.value) for p in points] for points in evaluated]
    areas = [area for curve in curves if (area := area_under(curve, end)) is not None]
    return t_interval(areas) if areas else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _table_notes(groups: Sequence[Group]) -> list[str]:
    notes = ["“Mean to step” is the area under the held-out curve divided by its length: it rewards learning early."]
    if any(len(group.runs) > 1 for group in groups):
        notes.append(
            "Brackets are t-intervals over seeds: mean ± t · s / √k for k seeds. All are judged on the same problems, "
            "so what other problems would change is not in them. Time and tokens are means over seeds."
        )
    if any(len(group.runs) == 1 for group in groups):
        notes.append("† One seed: the interval is over its held-out problems and says nothing about other seeds.")
    return notes


def _compare_training(comparison: Page, groups: list[Group], legend: Html) -> Html:
    runs = [run for group in groups for run in group.runs]
    labels = [group.label for group in groups]
    names = list({name: None for run in runs for name in run.metric_names()})

    def draw(name: str) -> Html:
        rows = []
        for group in groups:
            curves = [curve for run in group.runs if (curve := _smoothed(run, name))]
            count = len(curves)
            origin = f"{count} seeds" if count > 1 else None
            points = _every(over_seeds(curves), POINTS_A_CHART // 2)
            rows += _rows(points, group.label, lambda _, origin=origin: origin)
        if not rows:
            return Html()
        unit, description = _described(runs, name)
        alt = f"{name} by training step, {len(labels)} groups: {', '.join(labels)}"
        spec = charts.curves(rows, labels, height=150, points=False)
        return comparison.figure(name, spec, alt=alt, note=description, unit=unit)

    headline = list({name: None for run in runs for name in _headline(run)})
    panels = _panels(names, headline, draw)
    return page.together([legend, panels]) if panels else Html()


def _smoothed(run: Run, name: str) -> dict[int, float]:
    steps, values = run.series(name)
    if not len(steps):
        return {}
    kept = np.array(_every(list(range(len(steps))), 2 * POINTS_A_CHART))
    return dict(zip(map(int, steps[kept]), smooth(steps, values, steps[kept]).tolist(), strict=True))


def _every[T](points: list[T], keep: int) -> list[T]:
    """About `keep` of the points, evenly, with the first and the last."""
    if len(points) <= keep:
        return points
    return [points[i] for i in np.unique(np.linspace(0, len(points) - 1, keep).round().astype(int))]


def _differences(groups: Sequence[Group]) -> Html:
    configs = [group.runs[0].config for group in groups]
    different = differing_keys(configs)
    if not different:
        return Html()
    rows = [[key, *(page.plain(c[key]) if key in c else "(not set)" for c in configs)] for key in different]
    return page.table(["Key", *(group.label for group in groups)], rows)


def _run_list(groups: Sequence[Group]) -> Html:
    rows = [
        [run.path.resolve().name, group.label, "–" if run.seed is None else run.seed,
         "–" if run.last_step is None else run.last_step, page.duration(run.seconds), _commit(run) or "–"]
        for group in groups for run in group.runs
    ]  # fmt: skip
    commands = [
        str(run.provenance["command"]) for group in groups for run in group.runs if run.provenance.get("command")
    ]
    parts = [page.table(["Run", "Group", "Seed", "Last step", "Time", "Commit"], rows, text_columns=2)]
    if commands:
        parts += [page.heading("Run them again"), page.command("\n".join(dict.fromkeys(commands)))]
    return page.together(parts)


def _cautions(groups: Sequence[Group]) -> list[str]:
    """What makes these runs less comparable than they look."""
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
