"""Charts as Vega-Lite dicts, their light and dark theme, and PNGs made without a browser.

Specs hold no colours: those come from the theme, so that a page can redraw the same spec in another colour scheme.
Fields: `s` step, `v` value, `m` smoothed value, `l` and `h` the interval, `g` the series, `n` how many.
"""

import functools
import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf.config.paths import refuse_strangers

type Spec = dict[str, Any]
type Rows = Sequence[Mapping[str, Any]]


LARGEST = int(1.7e308)  # about the largest float


def finite(value: Any) -> Any:
    """The value with null in place of numbers that JSON cannot write: nan, inf and whole numbers beyond a float."""
    if isinstance(value, int) and abs(value) > 2**53:  # what a browser reads, it reads as a float
        value = float(value) if abs(value) < LARGEST else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


class Panel(NamedTuple):
    """One panel of a figure."""

    name: str
    metric: str
    rows: Rows
    labels: Sequence[str]


# Distinguishable with any common colour-vision deficiency, and at a contrast of at least 3:1 to the panel.
SERIES = {
    "light": ["#0072b2", "#c94f00", "#00835f", "#b0468f", "#8a6a00", "#4d5563"],
    "dark": ["#5ab0f0", "#f28b50", "#3cc79a", "#e39bcf", "#e3b93c", "#b9c0cb"],
}
INK = {"light": "#1b1f24", "dark": "#e7e9ec"}
MUTED = {"light": "#5c6470", "dark": "#9aa3b0"}
GRID = {"light": "#e8e9ea", "dark": "#2b3038"}
DASHES: list[list[int]] = [[1, 0], [6, 3], [2, 2]]  # of the first, second and third round through the colours

SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"


def theme(scheme: str, *, size: int = 11, font: str = SANS) -> Spec:
    """Vega-Lite config for `light` or `dark`."""
    ink, muted, grid = INK[scheme], MUTED[scheme], GRID[scheme]
    text = {"labelFont": font, "labelFontSize": size, "titleFont": font, "titleFontSize": size, "titleColor": muted}
    return {
        "background": "transparent",
        "view": {"stroke": None},
        "mark": {"color": SERIES[scheme][0]},
        "range": {"category": SERIES[scheme]},
        "axis": text
        | {"labelColor": muted, "titleFontWeight": "normal", "gridColor": grid}
        | {"domain": False, "ticks": False, "labelPadding": 6, "titlePadding": 10},
        "axisX": {"grid": False, "domain": True, "domainColor": grid},
        "legend": text | {"labelColor": ink, "symbolStrokeWidth": 3, "symbolSize": size * 14, "labelLimit": 480},
        "title": {"font": font, "color": ink, "fontSize": size + 4, "fontWeight": 600, "anchor": "start", "offset": 16}
        | {"subtitleFont": font, "subtitleFontSize": size, "subtitleColor": muted, "subtitlePadding": 6},
    }


# ---------------------------------------------------------------------------------------------------------- specs


def curves(rows: Rows, labels: Sequence[str], *, height: int = 260, points: bool = True) -> Spec:
    """One line with a band for each label. With `points`, every measurement and its interval are marked."""
    many = len(labels) > 1
    y = _value_axis(rows)
    value, low, high = {"y": {"field": "v", **y}}, {"y": {"field": "l", **y}}, {"y2": {"field": "h"}}
    with_interval = [{"filter": "isValid(datum.l) && isValid(datum.h)"}]
    any_interval = any(row.get("l") is not None for row in rows)

    def series(opacity: float) -> Spec:
        return (
            {"color": _colour(labels), "opacity": _unless_focused(opacity)} if many else {"opacity": {"value": opacity}}
        )

    area = {
        "transform": with_interval,
        "mark": {"type": "area", "clip": True},
        "encoding": low | high | series(0.18 if len(labels) <= 4 else 0.1),
    }
    line = {
        "mark": {"type": "line", "strokeWidth": 2.25 if points else 1.75, "clip": True},
        "encoding": value | series(1) | ({"strokeDash": _dash(labels)} if many else {}),
    }
    whisker = {
        "transform": with_interval,
        "mark": {"type": "bar", "width": 1.5, "clip": True},
        "encoding": low | high | series(0.55),
    }
    dot = {"mark": {"type": "point", "filled": True, "size": 42}, "encoding": value | series(1)}
    layers: list[Spec] = [area, line] if any_interval else [line]
    if points:
        layers += [whisker, dot] if any_interval else [dot]
    tooltip = {"series": "d.g"} if many else {}
    tooltip |= {"step": "d.s", "value": _digits("v")}
    if any_interval:
        tooltip["95 %"] = f"isValid(d.l) ? '[' + {_digits('l')} + ', ' + {_digits('h')} + ']' : 'no interval'"
    if any(row.get("n") is not None for row in rows):
        tooltip["over"] = "isValid(d.n) ? d.n : '–'"
    colour = {"color": _colour(labels)} if many else {}
    layers.append(_hover(y, tooltip, colour=colour, nearest_in="xy" if many else "x"))
    chart = _chart(rows, layers, height)
    return chart | {"params": [{"name": "focus", "value": None}]} if many else chart


def training(rows: Rows, *, unit: str = "", height: int = 130) -> Spec:
    """One training metric: the logged points, faint, and the smoothed line."""
    y = _value_axis(rows)
    measured, smoothed = {"y": {"field": "v", **y}}, {"y": {"field": "m", **y}}
    suffix = json.dumps(f" {unit}".rstrip())
    tooltip = {"step": "d.s", "value": f"{_digits('v')} + {suffix}", "smoothed": _digits("m")}
    layers = [
        {"mark": {"type": "point", "filled": True, "size": 16}, "encoding": measured | {"opacity": {"value": 0.4}}},
        {"mark": {"type": "line", "strokeWidth": 2, "clip": True}, "encoding": smoothed},
        _hover(y, tooltip, colour={}, nearest_in="x"),
    ]
    return _chart(rows, layers, height)


def _chart(rows: Rows, layers: Sequence[Spec], height: int) -> Spec:
    data = {"values": list(rows)}
    return {"width": "container", "height": height, "data": data, "encoding": {"x": _step_axis(rows)}, "layer": layers}


def _hover(y: Spec, tooltip: Mapping[str, str], *, colour: Spec, nearest_in: str) -> Spec:
    """A marker on the measurement nearest to the pointer. `tooltip` maps what is shown to an expression over a row `d`.

    Written out as an expression, because Vega-Lite looks for text fields in the wrong place where the nearest is
    wanted: there `datum` is the marker, and the row is inside it.
    """
    select = {
        "type": "point",
        "nearest": True,
        "on": "pointerover",
        "clear": "pointerout",
        "encodings": list(nearest_in),
    }
    shown = {"condition": {"param": "hover", "empty": False, "value": 1}, "value": 0}
    row = re.compile(r"\bd\.")
    lines = ", ".join(f"{json.dumps(k)}: {row.sub('(datum.datum || datum).', e)}" for k, e in tooltip.items())
    return {
        "params": [{"name": "hover", "select": select}],
        "mark": {"type": "point", "filled": True, "size": 60},
        "encoding": {
            "y": {"field": "v", **y},
            "opacity": shown,
            "tooltip": {"value": {"expr": f"{{{lines}}}"}},
            **colour,
        },
    }


def _digits(field: str) -> str:
    return f"format(d.{field}, '.4~g')"


def _colour(labels: Sequence[str]) -> Spec:
    return {"field": "g", "type": "nominal", "scale": {"domain": list(labels)}, "legend": None}


def _dash(labels: Sequence[str]) -> Spec:
    dashes = [DASHES[dash_of(i)] for i in range(len(labels))]
    return {"field": "g", "type": "nominal", "scale": {"domain": list(labels), "range": dashes}, "legend": None}


def dash_of(index: int) -> int:
    """Which dash pattern the series of this index has: a new one after each round through the colours."""
    return index // len(SERIES["light"]) % len(DASHES)


def _unless_focused(opacity: float) -> Spec:
    """Full opacity, unless another series is selected in the legend."""
    return {"condition": {"test": "focus == null || focus == datum.g", "value": opacity}, "value": opacity / 8}


def _step_axis(rows: Rows) -> Spec:
    steps = [row["s"] for row in rows]
    low, high = min(steps, default=0), max(steps, default=1)
    domain = [low, high] if low < high else [low - 1, low + 1]
    return {
        "field": "s",
        "type": "quantitative",
        "title": None,
        "scale": {"domain": domain, "nice": False},
        "axis": {"tickCount": 5, "tickMinStep": 1, "format": "~s" if high >= 10_000 else "d", "labelFlush": True},
    }


def _value_axis(rows: Rows) -> Spec:
    """The axis is 0 to 1 for values in [0, 1] that span more than 0.4, otherwise the range of the values."""
    shown = [row[k] for row in rows for k in ("v", "m") if row.get(k) is not None]
    low, high = min(shown, default=0.0), max(shown, default=1.0)
    size = max(abs(low), abs(high))
    scale: Spec = {"zero": False, "nice": True}
    if low >= 0 and high <= 1 and high - low > 0.4:
        scale = {"domain": [0, 1]}
    elif high - low <= 1e-9 * size:
        around = size / 2 or 1.0  # a constant is drawn in the middle; its rounding noise is not magnified
        scale = {"domain": [low - around, high + around]}
    elif low >= 0 and any(row.get("l") is not None and row["l"] < 0 for row in rows):
        scale = {"zero": True, "domainMin": 0, "nice": True}  # an interval may reach below the least possible value
    form = "~s" if size >= 10_000 else "~e" if 0 < size < 1e-3 else ",~f"
    return {"type": "quantitative", "title": None, "scale": scale, "axis": {"tickCount": 4, "format": form}}


# ------------------------------------------------------------------------------------------------------------ PNG


def held_out_figure(panels: Sequence[Panel], *, title: str, subtitle: str, along: str = "training step") -> Spec:
    """Held-out curves as a picture: a title, one panel a data set, a legend below."""
    width = 820 if len(panels) == 1 else 460
    drawn = []
    for name, metric, rows, labels in panels:
        panel = curves(rows, labels, height=380)
        params = panel.pop("params", [])  # the picture declares them once, for all panels
        panel["layer"] = panel["layer"][:-1]  # a picture has no pointer
        panel["encoding"]["x"]["title"] = along
        for layer in panel["layer"]:
            layer["encoding"]["y"]["title"] = f"held-out {metric}"
        if len(labels) > 1:
            longest = max(map(len, labels))
            legend = {
                "orient": "bottom",
                "title": None,
                "symbolType": "stroke",
                "offset": 16,
                "columnPadding": 24,
                "symbolOpacity": 1,
            }
            legend["columns"] = max(1, width * len(panels) // (60 + 9 * longest))
            for layer in panel["layer"]:  # every layer that has the scale must agree on its legend
                for channel in {"color", "strokeDash"} & set(layer["encoding"]):
                    layer["encoding"][channel]["legend"] = legend
        drawn.append(panel | {"width": width} | ({"title": {"text": name, "offset": 10}} if name else {}))
    body = {"hconcat": drawn, "spacing": 40, "params": params}
    return body | {"title": {"text": title, "subtitle": subtitle}}


def render_png(spec: Spec, output: Path) -> Path:
    """Render for a README: light theme, double resolution, text that stays readable when scaled down."""
    import vl_convert

    picture = spec | {"background": "white", "padding": 22}
    config = theme("light", size=14, font="Liberation Sans, Arial, sans-serif")
    config.pop("background")
    refuse_strangers(output, b"\x89PNG\r\n\x1a\n", "picture (PNG)")
    output.write_bytes(packed(vl_convert.vegalite_to_png(finite(picture), config=config, scale=2)))
    return output


def packed(png: bytes) -> bytes:
    """The same picture in about a third of the bytes: what draws it compresses in haste.

    A PNG is eight bytes, then chunks of length, name, content and checksum; those named IDAT hold the pixels.
    """
    out, pixels, at = png[:8], b"", 8
    while at < len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4])
        name, content = png[at + 4 : at + 8], png[at + 8 : end - 4]
        if name == b"IDAT":
            pixels += content
        else:
            if name == b"IEND":
                out += _chunk(b"IDAT", zlib.compress(zlib.decompress(pixels), 6))
            out += _chunk(name, content)
        at = end
    return out


def _chunk(name: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)


@functools.cache
def javascript() -> str:
    """Vega, Vega-Lite and vega-embed as one script that needs no network."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
