"""best_of_n.html and best_of_n.png: gold and proxy against n and against KL, and the KL against its bound."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.report import charts
from rlhf.report import html as page
from rlhf.report.html import Html, Page
from rlhf.statistics import Estimate

type Records = Sequence[Mapping[str, Any]]
NAMES = {"gold": "gold: share of right answers", "proxy": "proxy: score of the answer given", "kl": "KL, nats"}
NOTE = "Exact over all subsets of n of the sampled answers; 95 % intervals over problems."
OF_KL = "The dashed line is log n - (n-1)/n, which is reached only if no two answers tie."


def write_page(folder: Path, records: Records, *, title: str, facts: Mapping[str, object]) -> list[Path]:
    """Write both files into the folder; the page needs no network."""
    by_metric = {name: [record for record in records if record["metric"] == name] for name in NAMES}
    kl = {record["of"]: record["value"] for record in by_metric["kl"]}
    against_n = {name: panel(points(own, {n: n for n in kl}), x="n", y=NAMES[name]) for name, own in by_metric.items()}
    against_kl = {
        name: panel(points(by_metric[name], kl), x="KL(best-of-n || policy), nats", y=NAMES[name])
        for name in ("gold", "proxy")
    }
    report = Page(title)
    report.add(page.header(title, "RLHF Lab · best of n", Html("On held-out problems."), facts, {}), Html("<main>"))
    figures = [
        report.figure(NAMES[name], spec, alt=f"{NAMES[name]} against {x}", note=OF_KL if name == "kl" else "")
        for x, charted in (("n", against_n), ("KL", against_kl))
        for name, spec in charted.items()
    ]
    report.add(page.section("pictures", "Pictures", page.wide(figures), lead=NOTE))
    report.add(page.section("numbers", "Numbers", table(by_metric)), Html("</main>"))
    top, below = (
        {"hconcat": [spec | {"width": 330, "height": 240} for spec in charted.values()], "spacing": 40}
        for charted in (against_n, against_kl)
    )
    picture = {"vconcat": [top, below], "spacing": 30, "title": {"text": title, "subtitle": [NOTE, OF_KL]}}
    return [report.write(folder / "best_of_n.html"), charts.render_png(picture, folder / "best_of_n.png")]


def points(records: Records, places: Mapping[int, float]) -> list[dict[str, Any]]:
    """Rows of a chart, at the place of each n."""
    return [
        {
            "n": r["of"],
            "x": places[r["of"]],
            "v": r["value"],
            "l": r.get("low"),
            "h": r.get("high"),
            "b": r.get("bound"),
        }
        for r in records
    ]


def panel(rows: Sequence[Mapping[str, Any]], *, x: str, y: str) -> charts.Spec:
    """A line with its band and points, and the bound as a dashed line where there is one; n on a logarithmic axis."""
    scale = {"type": "log", "base": 2} if x == "n" else {"nice": False}
    axis = {"values": [row["x"] for row in rows], "format": "d"} if x == "n" else {}
    value_axis = {"type": "quantitative", "title": y, "scale": {"zero": False}}
    tooltip = [{"field": field, "title": title} for field, title in (("n", "n"), ("v", y), ("l", "low"), ("h", "high"))]
    has_interval = [{"filter": "isValid(datum.l)"}]
    layers: list[charts.Spec] = [
        {
            "transform": has_interval,
            "mark": {"type": "area", "opacity": 0.18},
            "encoding": {"y": {"field": "l", **value_axis}, "y2": {"field": "h"}},
        },
        {
            "mark": {"type": "line", "point": {"filled": True, "size": 42}},
            "encoding": {"y": {"field": "v", **value_axis}, "tooltip": tooltip},
        },
    ]
    if any(row["b"] is not None for row in rows):
        layers.append({"mark": {"type": "line", "strokeDash": [4, 4]}, "encoding": {"y": {"field": "b", **value_axis}}})
    return {
        "width": "container",
        "height": 260,
        "data": {"values": list(rows)},
        "encoding": {"x": {"field": "x", "type": "quantitative", "title": x, "scale": scale, "axis": axis}},
        "layer": layers,
    }


def table(by_metric: Mapping[str, Records]) -> Html:
    rows = []
    for gold, proxy, kl in zip(*by_metric.values(), strict=True):
        cells = [
            page.estimate_cell(Estimate(r["value"], r.get("low"), r.get("high"), r["n"]), 3) for r in (gold, proxy, kl)
        ]
        rows.append([kl["of"], *cells, f"{kl['bound']:.3f}"])
    return page.table(["n", "Gold", "Proxy", "KL, nats", "log n - (n-1)/n"], rows)
