"""The picture of a claim, to be read on its own: arms with their seeds, paired differences, and curves of the runs.

To the left each arm's seeds, mean and 95 % interval, a chart for each measure; to the right the paired differences,
with a line at equal, and beside each what was claimed of it (or expected, where the verdict does not count it) and the
verdict. Below those the curves, mean and band over seeds, named at their ends.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from claims.claim import Claim, Curve, Measure
from claims.results import Results
from claims.verdicts import Comparison, over_seeds
from claims.words import between, claimed, compared
from rlhf.report import charts
from rlhf.report.curves import short
from rlhf.statistics import Estimate

ROW = 34  # pixels of an arm
WIDTH, OF_DIFFERENCES, OF_CURVES = 400, 330, 400
LINE = 110  # characters of the title
APART = {"resolve": {"scale": {"color": "independent", "strokeDash": "independent"}}}  # lines of charts side by side
COLOURS = {"seen": "#00835f", "not seen": "#5c6470", "opposite": "#c94f00", "one seed": "#5c6470"}


def write_picture(claim: Claim, results: Results, output: Path) -> Path:
    """Draw the claim as a PNG."""
    return charts.render_png(draw(claim, results), output)


def draw(claim: Claim, results: Results) -> charts.Spec:
    """The figure as a Vega-Lite spec."""
    comparisons = results.comparisons(claim)
    beside = results.beside(claim)
    of_lines = any(arm.x is not None for arm in claim.arms.values())
    of_arms = any(arm.x is None for arm in claim.arms.values())
    values, differences = [], []
    for measure in (one for one in claim.measures if one.drawn):
        parts = [_over_x(claim, measure, results)] if of_lines else []
        parts += [_arms(claim, measure, results)] if of_arms else []
        values.append({"vconcat": parts, **APART})
        own = {
            said: [one for one in of if one.measure == measure]
            for said, of in (("claimed", comparisons), ("expected", beside))
        }
        differences.append([_differences(own, measure)] if any(own.values()) else [])
    curves = [_curves(curve, results) for curve in claim.curves]
    if curves:  # one column of values, one of what they come to
        right = [one for own in differences for one in own] + curves
        rows: list[charts.Spec] = [
            {"hconcat": [{"vconcat": values, **APART}, {"vconcat": right, **APART}], "spacing": 30, **APART}
        ]
    else:
        rows = [
            {"hconcat": [left, *own], "spacing": 30, **APART} for left, own in zip(values, differences, strict=True)
        ]
    n = len(results.seeds)
    about = f"{claim.paper.authors}, {claim.paper.year}. {claim.setting}"
    dots = "" if not of_arms else "a small dot is a seed, a large one the mean; "
    over = f"{n} seeds: {dots}thick lines and bands are 95 % intervals over seeds." if n > 1 else "One seed."
    subtitle = [*wrap(about, LINE + 20), over]
    return {
        "vconcat": rows,
        "spacing": 30,
        "title": {"text": wrap(claim.sentence, LINE), "subtitle": subtitle},
        **APART,
    }


def _axis(measure: Measure | Curve, title: str) -> charts.Spec:
    """The quantitative axis of a measure, of its values or of what compares them."""
    scale = {"type": "log", "nice": False, "padding": 10} if measure.ratio else {"zero": False, "nice": True}
    return {"type": "quantitative", "title": title, "scale": scale, "axis": {"tickCount": 5}}


def _arms(claim: Claim, measure: Measure, results: Results) -> charts.Spec:
    """Seeds, mean and interval of each arm without an `x`, one below the other."""
    values = results.values[measure.name]
    own = [name for name, arm in claim.arms.items() if arm.x is None]
    means = {arm: mean for arm in own if (mean := over_seeds(measure, values[arm]))}
    names = list(means)
    x = _axis(measure, f"{measure.name}, {measure.unit}")
    y = {"field": "g", "type": "nominal", "sort": names, "title": None, "axis": {"labelLimit": 400, "grid": True}}
    seeds = [{"g": arm, "v": short(value)} for arm in names for value in values[arm] if value == value]
    layers = [
        {"data": {"values": seeds}, "mark": {"type": "point", "filled": True, "size": 18, "opacity": 0.6, "yOffset": 9}}
        | {"encoding": {"x": {"field": "v", **x}}},
        *_interval_layers([_interval_row(*mean) for mean in means.items()], x),
    ]
    return {"width": WIDTH, "height": ROW * len(names), "encoding": {"y": y}, "layer": layers}


def _interval_row(name: str, estimate: Estimate) -> dict[str, Any]:
    return {"g": name, "v": short(estimate.value), "l": short(estimate.low), "h": short(estimate.high)}


def _interval_layers(rows: Sequence[Mapping[str, Any]], x: charts.Spec) -> list[charts.Spec]:
    data = {"values": list(rows)}
    rule = {"type": "rule", "strokeWidth": 3, "color": charts.SERIES["light"][0]}
    return [
        {"data": data, "mark": rule, "transform": [{"filter": "isValid(datum.l)"}]}
        | {"encoding": {"x": {"field": "l", **x}, "x2": {"field": "h"}}},
        {"data": data, "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1}}
        | {"encoding": {"x": {"field": "v", **x}}},
    ]


def _differences(comparisons: Mapping[str, Sequence[Comparison]], measure: Measure) -> charts.Spec:
    """What was found of each comparison and its verdict: of those that are claimed, and of those that are expected."""
    names = [compared(one) for of in comparisons.values() for one in of]
    unit = "" if measure.ratio else f" ({measure.unit})"
    x = _axis(measure, f"{'ratio' if measure.ratio else 'difference'} of {measure.name}{unit}, paired by seed")
    y = {"field": "g", "type": "nominal", "sort": names, "title": None, "axis": {"labelLimit": 400, "grid": True}}
    rows = [
        _interval_row(compared(one), one.found)
        | {"c": COLOURS[one.verdict], "t": f"{said} {claimed(one)}, {one.verdict}: {between(one)}"}
        for said, of in comparisons.items()
        for one in of
        if one.found.value == one.found.value
    ]
    colour = {"color": {"field": "c", "type": "nominal", "scale": None}}
    equal = {"data": {"values": [{"e": 1 if measure.ratio else 0}]}, "mark": {"type": "rule", "strokeDash": [4, 3]}}
    text = {"type": "text", "align": "left", "fontSize": 12}
    layers: list[charts.Spec] = [equal | {"encoding": {"x": {"field": "e", **x}}}]
    for layer in _interval_layers(rows, x):
        layer["encoding"] |= {"y": y} | colour
        layers.append(layer)
    layers.append(
        {"data": {"values": rows}, "mark": text}
        | {"encoding": {"y": y, "x": {"value": OF_DIFFERENCES + 12}, "text": {"field": "t"}, **colour}}
    )
    return {"width": OF_DIFFERENCES, "height": ROW * len(names), "layer": layers}


def _over_x(claim: Claim, measure: Measure, results: Results) -> charts.Spec:
    """Lines of arms over their `x`, mean and band over seeds, named at their ends."""
    rows = [
        {"x": arm.x, **_interval_row(arm.line or name, mean)}
        for name, arm in claim.arms.items()
        if arm.x is not None and (mean := over_seeds(measure, results.values[measure.name][name]))
    ]
    y = _axis(measure, f"{measure.name}, {measure.unit}")
    x = {"field": "x", "type": "quantitative", "title": claim.x, "axis": {"tickCount": 5}}
    if claim.log_x:
        x["scale"] = {"type": "log"}
    return _lines(rows, x=x, y=y, width=WIDTH, log=measure.ratio)


def _curves(curve: Curve, results: Results) -> charts.Spec:
    """A quantity along the runs of each arm: mean and band over the seeds that have the step."""
    rows = []
    for arm, of_seeds in results.curves[curve.title].items():
        by_x: dict[float, list[float]] = {}
        for points in of_seeds:
            for x, y in points:
                by_x.setdefault(x, []).append(y)
        whole = {x: ys for x, ys in by_x.items() if len(ys) == len(of_seeds)}
        rows += [
            {"x": x, **_interval_row(arm, mean)} for x, ys in sorted(whole.items()) if (mean := over_seeds(curve, ys))
        ]
    x = {"field": "x", "type": "quantitative", "title": curve.x, "axis": {"tickCount": 5}}
    return _lines(rows, x=x, y=_axis(curve, curve.title), width=OF_CURVES, log=curve.ratio)


def _lines(
    rows: Sequence[Mapping[str, Any]], *, x: charts.Spec, y: charts.Spec, width: int, log: bool = False
) -> charts.Spec:
    names = list(dict.fromkeys(row["g"] for row in rows))
    colour = {"field": "g", "type": "nominal", "scale": {"domain": names}, "legend": None}
    dashes = [charts.DASHES[charts.dash_of(i)] for i in range(len(names))]
    dash = {"field": "g", "type": "nominal", "scale": {"domain": names, "range": dashes}, "legend": None}
    last = [max((row for row in rows if row["g"] == name), key=lambda row: row["x"]) for name in names]
    label = {"type": "text", "align": "left", "dx": 8, "fontSize": 12, "limit": 220}
    layers = [
        {
            "mark": {"type": "area", "opacity": 0.15 if len(names) <= 4 else 0.07},
            "transform": [{"filter": "isValid(datum.l)"}],
        }
        | {"encoding": {"x": x, "y": {"field": "l", **y}, "y2": {"field": "h"}, "color": colour}},
        {"mark": {"type": "line", "strokeWidth": 2.25}}
        | {"encoding": {"x": x, "y": {"field": "v", **y}, "color": colour, "strokeDash": dash}},
        {"data": {"values": _apart(last, rows, log=log)}, "mark": label}
        | {"encoding": {"x": x, "y": {"field": "at", **y}, "text": {"field": "g"}, "color": colour}},
    ]
    return {"width": width, "height": 260, "data": {"values": list(rows)}, "layer": layers}


def _apart(last: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], *, log: bool) -> list[dict[str, Any]]:
    """The ends of the lines, each with the height of its name, so that no name lies on another."""
    there, back = (math.log, math.exp) if log else (float, float)
    shown = [there(row[key]) for row in rows for key in ("v", "l", "h") if row[key] is not None]
    apart = (max(shown) - min(shown)) * 0.06
    placed: list[dict[str, Any]] = []
    least = -math.inf
    for row in sorted(last, key=lambda row: row["v"]):
        at = max(there(row["v"]), least)
        least = at + apart
        placed.append({**row, "at": back(at)})
    return placed
