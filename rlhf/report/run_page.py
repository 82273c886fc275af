"""The report of one run: result, advice, held-out evaluation, training curves, samples, config and environment."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.report import charts, html, numbers
from rlhf.report.curves import (
    POINTS_A_CHART,
    curve_in_words,
    described,
    headline_of,
    held_out_rows,
    in_words,
    panels,
    short,
    targets_of,
)
from rlhf.report.html import Html, Page
from rlhf.report.over_seeds import smooth, thin
from rlhf.report.runs import Run, read_run

SAMPLES_A_STEP = 4


def write_report(run: Path, output: Path | None = None) -> Path:
    """Write `run/report.html`, or `output`.

    The page shows result, advice, held-out evaluation, training curves, samples, config and environment.
    """
    return _report(read_run(run)).write(output or Path(run) / "report.html")


def _report(run: Run) -> Page:
    report = Page(run.title)
    # In the order of the page; parts with nothing to show are left out.
    parts = {
        "advice": ("Advice", html.advice(run.advice) if run.advice else Html()),
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
    config = run.config
    speed = run.series("speed/tokens_per_s")[1]
    data = config.get("task") or config.get("tasks") or config.get("data") or config.get("dataset")
    facts = {
        "Algorithm": config.get("algorithm") or config.get("loss"),
        "Model": config.get("model_name"),
        "Data": _comma_separated(data),
        "Steps": run.last_step,
        "Time": numbers.duration(run.seconds) if run.seconds is not None else None,
        "Tokens/s": numbers.magnitude(float(np.median(speed))) if len(speed) else None,
        "Profile": run.provenance.get("profile"),
        "Seed": run.seed,
    }
    links = {place: title for place, (title, _) in shown.items()}
    report.add(html.header(run.title, "RLHF Lab · run report", _result(run), facts, links), Html("<main>"))
    for place, (title, content) in shown.items():
        report.add(html.section(place, title, content, lead=leads.get(place, "")))
    report.add(Html("</main>"), html.footer([f"Run directory: {run.path.resolve()}"], run.notes))
    return report


def _comma_separated(value: object) -> object:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _result(run: Run) -> Html:
    """The result of the run in one sentence."""
    target = next(iter(targets_of([run])), None)
    steps, seconds = run.last_step, run.seconds
    after = f" after {steps} steps" if steps else ""
    after += f" in {numbers.duration(seconds)}" if after and seconds else ""
    if target:
        points = run.evaluation[target]
        first, last = points[0], points[-1]
        digits = numbers.decimals([first.estimate, last.estimate])
        change = numbers.fixed(last.estimate.value, digits)
        if last.step > first.step:
            change = f"{numbers.fixed(first.estimate.value, digits)} → {change}"
        between = numbers.interval(last.estimate, digits)
        where = f" on {target.data}" if target.data and target.data not in run.title else ""
        if steps and last.step != steps:
            after = f" at step {last.step} of {steps}" + (f", {numbers.duration(seconds)} in all" if seconds else "")
        return html.markup(
            "Held-out {metric}{where} <b>{change}</b>{between}{after}.",
            metric=target.metric,
            where=where,
            change=change,
            between=html.bracket(between),
            after=after,
        )
    for name in [*headline_of(run), "reward/mean", "loss"]:
        values = run.series(name)[1]
        if len(values):
            edge = max(1, len(values) // 10)
            first, last = (numbers.number(float(part.mean())) for part in (values[:edge], values[-edge:]))
            return html.markup(
                "No held-out evaluation. In training, {name} <b>{first} → {last}</b>{after}.",
                name=name,
                first=first,
                last=last,
                after=after,
            )
    return Html("Nothing was measured in this run.")


def _evaluation(report: Page, run: Run) -> Html:
    targets = targets_of([run])
    if not targets:
        return Html()
    names = list({t.data or t.metric: None for t in targets})
    figures = []
    for metric in {t.metric: None for t in targets}:
        chosen = [t for t in targets if t.metric == metric]
        rows = held_out_rows(run, chosen)
        if max(row["s"] for row in rows) == min(row["s"] for row in rows):
            continue  # one evaluation is no curve, and the table shows it
        # Every chart keeps all names, so that one colour means one data set on the whole page.
        spec = charts.curves(rows, names, height=280)
        alt = "; ".join(curve_in_words(t.name, run.evaluation[t]) for t in chosen)
        note = "" if len(names) > 1 else f"on {chosen[0].data}" if chosen[0].data else ""
        figures.append(report.figure(metric, spec, alt=f"Held-out curve. {alt}", note=note))
    table = []
    for t in targets:
        first, last = run.evaluation[t][0], run.evaluation[t][-1]
        digits = numbers.decimals([first.estimate, last.estimate])
        moved = last.step > first.step
        table.append([
            t.data or "–",
            t.metric,
            html.estimate_cell(first.estimate, digits) if moved else "–",
            html.estimate_cell(last.estimate, digits),
            numbers.fixed(last.estimate.value - first.estimate.value, digits, sign=True) if moved else "–",
            f"{first.step} → {last.step}" if moved else last.step,
            numbers.number(last.estimate.n),
        ])  # fmt: skip
    head = ["Data", "Metric", "Before", "After", "Change", "Step", "Problems"]
    legend = html.legend(names) if len(names) > 1 and figures else Html()
    return html.together([legend, html.wide(figures), html.table(head, table, text_columns=2)])


def _training(report: Page, run: Run) -> Html:
    if not run.metrics:
        return Html()

    def draw(name: str) -> Html:
        steps, values = run.series(name)
        kept = thin(values, POINTS_A_CHART)
        smoothed = smooth(steps, values, steps[kept])
        shown = zip(steps[kept], values[kept], smoothed, strict=True)
        rows = [{"s": int(s), "v": short(v), "m": short(m)} for s, v, m in shown]
        unit, description = described([run], name)
        alt = in_words(name, steps.tolist(), values.tolist())
        last = numbers.number(float(smoothed[-1]))
        return report.figure(name, charts.training(rows, unit=unit), alt=alt, note=description, unit=unit, last=last)

    never = run.unmeasured()
    note = [f"Logged without a value: {', '.join(never)}."] if never else []
    return html.together([panels([run], draw), html.notes(note)])


def _samples(run: Run) -> Html:
    """Samples of the first and of the last step; prompts that both have stand side by side."""
    if not run.samples:
        return Html()
    steps = list(dict.fromkeys((run.samples[0]["step"], run.samples[-1]["step"])))
    columns = [[row for row in run.samples if row["step"] == step] for step in steps]
    shared = set.intersection(*({str(row.get("prompt")) for row in rows} for rows in columns))
    return html.samples(
        {step: _chosen(rows, shared)[:SAMPLES_A_STEP] for step, rows in zip(steps, columns, strict=True)}
    )


def _chosen(rows: list[dict[str, Any]], shared: set[str]) -> list[dict[str, Any]]:
    """Shared prompts first, sorted, and each prompt once before any is repeated."""
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
    return html.folded(f"All {len(run.config)} settings, as resolved (config.yaml)", html.keys(run.config))


def _environment(run: Run) -> Html:
    given = run.provenance
    if not given:
        return Html()
    started = str(given.get("started") or "").replace("T", " ")
    facts = {
        "started": started,
        "git commit": run.commit,
        "seed": given.get("seed"),
        "profile": given.get("profile"),
        "processes": given.get("processes"),
        "data fingerprint": given.get("data_fingerprint"),
    }
    host = given.get("host") if isinstance(given.get("host"), dict) else {"host": given.get("host")}
    facts |= {f"host: {k}" if k != "host" else k: v for k, v in (host or {}).items()}
    versions = given.get("versions")
    parts = [html.keys({k: v for k, v in facts.items() if v not in (None, "")})]
    if isinstance(versions, dict) and versions:
        folded = html.folded("Package versions", html.keys({str(name): v for name, v in versions.items()}))
        parts.append(html.markup('<div style="margin-top: 10px">{folded}</div>', folded=folded))
    if given.get("command"):
        parts += [html.heading("Run it again"), html.command(str(given["command"]))]
    return html.together(parts)
