"""The picture: proxy and gold reward against sqrt(KL), a line an optimizer, bands over seeds, a row a panel."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.points import GOLD, PROXY, Curve, over_seeds
from rlhf.report import charts
from rlhf.report.curves import short

TITLES = {PROXY: "proxy reward (standard deviations of the start)", GOLD: "gold reward (share right)"}
WIDTH, HEIGHT = 520, 300


def rows_of(curve: Curve, reward: str) -> list[dict[str, Any]]:
    """A curve as rows of a chart: x is the seeds' mean distance at a step. A share's interval is cut at 0 and 1."""
    low, high = (0.0, 1.0) if reward == GOLD else (-math.inf, math.inf)
    rows = []
    for step in curve.steps:
        estimate = over_seeds(curve, step, reward)
        x = float(np.mean([point.d for point in curve.at(step)]))
        row = {"g": curve.name, "s": step, "x": short(x), "v": short(estimate.value)}
        if len(curve.seeds) > 1 and estimate.low is not None and estimate.high is not None:
            row |= {"l": short(max(low, estimate.low)), "h": short(min(high, estimate.high))}
        rows.append(row)
    return rows


def draw(panels: Sequence[tuple[str, Sequence[Curve]]], *, title: str, subtitle: str) -> charts.Spec:
    """A Vega-Lite figure: for each panel its proxy chart beside its gold chart; a line has one colour in all."""
    labels = list(dict.fromkeys(curve.name for _, curves in panels for curve in curves))
    rows = [
        {"hconcat": [_chart(curves, reward, name, labels) for reward in (PROXY, GOLD)], "spacing": 40}
        for name, curves in panels
    ]
    return {"vconcat": rows, "spacing": 40, "title": {"text": title, "subtitle": subtitle}}


def _chart(curves: Sequence[Curve], reward: str, name: str, labels: Sequence[str]) -> charts.Spec:
    dashes = [charts.DASHES[charts.dash_of(i)] for i in range(len(labels))]
    legend = {"orient": "bottom", "title": None, "symbolType": "stroke", "symbolOpacity": 1, "columns": 4}
    colour = {"field": "g", "type": "nominal", "scale": {"domain": list(labels)}, "legend": legend}
    dash = {"field": "g", "type": "nominal", "scale": {"domain": list(labels), "range": dashes}, "legend": legend}
    x = {"field": "x", "type": "quantitative", "title": "sqrt(KL(policy || start)), sqrt(nats)"}
    y = {"type": "quantitative", "title": TITLES[reward], "scale": {"zero": reward == GOLD}}
    band = {"mark": {"type": "area", "opacity": 0.1}, "transform": [{"filter": "isValid(datum.l)"}]}
    line = {"mark": {"type": "line", "strokeWidth": 2.25}}
    dot = {"mark": {"type": "point", "filled": True, "size": 36}}
    by_step = {"order": {"field": "s", "type": "quantitative"}}  # a policy may come back towards the start
    layers = [
        band | {"encoding": {"y": {"field": "l", **y}, "y2": {"field": "h"}, "color": colour}},
        line | {"encoding": {"y": {"field": "v", **y}, "color": colour, "strokeDash": dash, **by_step}},
        dot | {"encoding": {"y": {"field": "v", **y}, "color": colour}},
    ]
    data = {"values": [row for curve in curves for row in rows_of(curve, reward)]}
    title = {"text": name if reward == PROXY else "", "offset": 10}
    return {"width": WIDTH, "height": HEIGHT, "data": data, "encoding": {"x": x}, "layer": layers, "title": title}


def write_picture(panels: Sequence[tuple[str, Sequence[Curve]]], output: Path, *, title: str, subtitle: str) -> Path:
    return charts.render_png(draw(panels, title=title, subtitle=subtitle), output)
