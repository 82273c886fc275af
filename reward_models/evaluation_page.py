"""evaluation.html: score histograms, calibration, best-of-n curves and steps coloured by their score, in one file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reward_models.held_out_metrics import Result
from rlhf.report import charts
from rlhf.report import html as page
from rlhf.report.html import Html, Page
from rlhf.statistics import Estimate

BARS = 30


def write_evaluation(folder: Path, result: Result, *, title: str) -> Path:
    """Write `folder/evaluation.html`; it needs no network."""
    report = Page(f"{title}: evaluation")

    def table(records: Sequence[Mapping[str, Any]]) -> Html:
        rows = []
        for r in records:
            value = page.estimate_cell(Estimate(r["value"], r.get("low"), r.get("high"), r["n"]), 3)
            rows.append([r["data"], r["metric"], value, r["n"]])
        return page.table(["Data", "Metric", "Value", "n"], rows, text_columns=2)

    figures = []
    if result.histograms:
        names = list(result.histograms)
        spec = histogram(result.histograms)
        alt = "; ".join(f"{name}: mean {np.mean(values):.2f}" for name, values in result.histograms.items() if values)
        figures.append([page.legend(names), report.figure("Scores", spec, alt=f"Histogram of scores. {alt}")])
    if result.best_of:
        curve_rows = [
            {"g": name, "s": r["of"], "v": r["value"], "n": f"{r['n']} questions"}
            | ({"l": r["low"], "h": r["high"]} if "low" in r else {})
            for name, curve in result.best_of.items()
            for r in curve
        ]
        spec = charts.curves(curve_rows, list(result.best_of), height=300)
        note = "Share of questions answered rightly by the best-scored of n answers; exact over all subsets of n"
        legend = page.legend(list(result.best_of))
        figures.append([legend, report.figure("Best of n", spec, alt="Best-of-n accuracy by n", note=note)])
    if result.reliability:
        note = "Predicted against observed frequency; on the dashed line predictions are what they say"
        spec = calibration(result.reliability)
        figures.append([report.figure("Calibration", spec, alt="Reliability diagram", note=note)])
    report.add(
        page.header(title, "RLHF Lab · reward model", Html("Held-out evaluation with 95 % intervals."), {}, {}),
        Html("<main>"),
        page.section("numbers", "Numbers", table(result.records)),
    )
    if result.baselines:
        lead = "What needs no reward model: a model is worth what it is better than these."
        report.add(page.section("baselines", "Baselines", table(result.baselines), lead=lead))
    cells = page.wide(page.markup("<div>{figure}</div>", figure=page.together(figure)) for figure in figures)
    report.add(page.section("pictures", "Pictures", cells))
    if result.traces:
        lead = "Each step on the colour of its probability of being wrong; ✗ marks the steps that are labelled wrong."
        report.add(page.section("steps", "Steps", page.together(map(trace, result.traces)), lead=lead))
    report.add(Html("</main>"))
    return report.write(Path(folder) / "evaluation.html")


def histogram(groups: Mapping[str, Sequence[float]]) -> charts.Spec:
    """Overlaid bars, each group's shares adding up to 1."""
    together = np.concatenate([np.asarray(values, dtype=float) for values in groups.values() if len(values)])
    edges = np.histogram_bin_edges(together, bins=BARS)
    rows = []
    for name, values in groups.items():
        share = np.histogram(values, bins=edges)[0] / max(1, len(values))
        rows += [
            {"g": name, "a": float(low), "b": float(high), "v": float(v)}
            for low, high, v in zip(edges, edges[1:], share, strict=False)
        ]
    x = {"field": "a", "type": "quantitative", "title": "score", "bin": "binned"}
    y = {"field": "v", "type": "quantitative", "title": "share", "stack": None}
    colour = {"field": "g", "type": "nominal", "scale": {"domain": list(groups)}, "legend": None}
    return {
        "width": "container",
        "height": 260,
        "data": {"values": rows},
        "params": [{"name": "focus", "value": None}],
        "mark": {"type": "bar", "opacity": 0.55},
        "encoding": {"x": x, "x2": {"field": "b"}, "y": y, "color": colour},
    }


def calibration(bins: Sequence[Mapping[str, float]]) -> charts.Spec:
    axis = {"type": "quantitative", "scale": {"domain": [0, 1]}}
    line = {"values": [{"predicted": v, "observed": v} for v in (0, 1)]}
    x, y = ({"field": name, "title": name, **axis} for name in ("predicted", "observed"))
    return {
        "width": "container",
        "height": 260,
        "encoding": {"x": x, "y": y},
        "layer": [
            {"data": line, "mark": {"type": "line", "strokeDash": [4, 4], "opacity": 0.5}},
            {
                "data": {"values": list(bins)},
                "mark": {"type": "line", "point": {"filled": True, "size": 50}},
                "encoding": {"tooltip": [{"field": name} for name in ("predicted", "observed", "n")]},
            },
        ],
    }


def trace(one: Mapping[str, Any]) -> Html:
    """Steps as lines, coloured from nothing (surely fine) to red (surely wrong)."""
    line = (
        '<span style="background: color-mix(in srgb, var(--bad) {share}%, transparent)" title="{exact}">{step}</span>'
        "{mark} <small>{wrong}</small>"
    )
    lines = [
        page.markup(
            line,
            share=round(70 * wrong),
            exact=f"{wrong:.3f}",
            step=step,
            mark=" ✗" if label < 0 else "",
            wrong=f"{wrong:.2f}",
        )
        for step, label, wrong in zip(one["steps"], one["labels"], one["wrong"], strict=True)
    ]
    return page.markup('<article><pre tabindex="0">{lines}</pre></article>', lines=page.together(lines, "<br>"))
