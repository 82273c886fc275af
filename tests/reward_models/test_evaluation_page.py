"""evaluation.html: what its pictures and tables are drawn from, by hand."""

import json
import re
from pathlib import Path

import pytest

from reward_models.evaluation_page import calibration, histogram, trace, write_evaluation
from reward_models.held_out_metrics import Result


def bars(spec, name: str) -> list[tuple[float, float, float]]:
    return [(row["a"], row["b"], row["v"]) for row in spec["data"]["values"] if row["g"] == name]


def test_the_shares_of_each_group_add_up_to_one():
    """Thirty bars from 0 to 30 for both; of `a` three in the first and one in the last, of `b` all in the middle."""
    spec = histogram({"a": [0.0, 0.5, 0.9, 30.0], "b": [15.5, 15.5], "none": []})
    a, b = bars(spec, "a"), bars(spec, "b")
    assert len(a) == len(b) == 30
    assert (a[0], a[-1]) == ((0.0, 1.0, 0.75), (29.0, 30.0, 0.25))
    assert sum(v for _, _, v in a) == sum(v for _, _, v in b) == 1
    assert b[15] == (15.0, 16.0, 1.0)
    assert sum(v for _, _, v in bars(spec, "none")) == 0
    assert spec["encoding"]["color"]["scale"]["domain"] == ["a", "b", "none"]
    assert (spec["encoding"]["x"]["field"], spec["encoding"]["x2"]["field"], spec["encoding"]["y"]["field"]) == (
        "a",
        "b",
        "v",
    )
    assert spec["encoding"]["y"]["stack"] is None


def test_predictions_lie_along_and_observations_up():
    bins = [{"predicted": 0.2, "observed": 0.4, "n": 3}]
    spec = calibration(bins)
    assert (spec["encoding"]["x"]["field"], spec["encoding"]["y"]["field"]) == ("predicted", "observed")
    assert all(spec["encoding"][axis]["scale"]["domain"] == [0, 1] for axis in "xy")
    diagonal, points = spec["layer"]
    assert diagonal["data"]["values"] == [{"predicted": v, "observed": v} for v in (0, 1)]
    assert points["data"]["values"] == bins


def test_steps_are_as_red_as_they_are_likely_to_be_wrong():
    page = trace({"steps": ["1+1=2", "<b>", "x"], "labels": [1, -1, 0], "wrong": [0.0, 1.0, 0.5]})
    assert re.findall(r"var\(--bad\) (\d+)%", page) == ["0", "70", "35"]
    assert re.findall(r"<small>([\d.]+)</small>", page) == ["0.00", "1.00", "0.50"]
    assert page.count("✗") == 1
    assert page.index("&lt;b&gt;") < page.index("✗") < page.index(">x<")
    assert "<b>" not in page


def test_a_page_holds_what_was_measured(tmp_path: Path):
    """With intervals where there are some, and baselines and curves in places of their own."""
    result = Result(
        [{"data": "held-out", "metric": "auc", "value": 0.875, "n": 40, "low": 0.75, "high": 0.95}],
        lambda items: 0.0,
        [{"data": "held-out", "metric": "best_of_1", "value": 0.625, "n": 40}],
        histograms={"right": [1.0, 2.0], "wrong": []},
        reliability=[{"predicted": 0.2, "observed": 0.4, "n": 3}],
        best_of={
            "model": [{"of": 2, "value": 0.5, "n": 9, "low": 0.25, "high": 0.75}, {"of": 4, "value": 0.6, "n": 9}]
        },
        traces=[{"steps": ["1+1=3"], "labels": [-1], "wrong": [0.9]}],
    )
    file = write_evaluation(tmp_path, result, title="RM")
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.html"] == [file.name]
    page = file.read_text()
    assert "[0.750, 0.950]" in page
    assert re.search(r"0\.625 <span class=\"interval\"></span>", page)
    assert page.index("0.875") < page.index("0.625") < page.index("1+1=3")
    assert "right: mean 1.50" in page
    assert "wrong: mean" not in page
    assert '{"g": "model", "s": 2, "v": 0.5, "n": "9 questions", "l": 0.25, "h": 0.75}' in json.dumps(_specs(page))
    assert '{"g": "model", "s": 4, "v": 0.6, "n": "9 questions"}' in json.dumps(_specs(page))


def _specs(page: str) -> list:
    """Every JSON object that the page's scripts are given."""
    found = []
    for text in re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL):
        decoder = json.JSONDecoder()
        for match in re.finditer(r'\{"', text):
            try:
                found.append(decoder.raw_decode(text, match.start())[0])
            except ValueError:
                continue
    return found


@pytest.mark.parametrize("part", ["pictures", "steps", "baselines"])
def test_what_is_not_there_has_no_section(tmp_path: Path, part: str):
    record = {"data": "d", "metric": "m", "value": 1.0, "n": 1}
    page = write_evaluation(tmp_path, Result([record], lambda items: 0.0), title="RM").read_text()
    assert f'id="{part}"' not in page or part == "pictures"
    assert 'id="numbers"' in page


def test_the_histogram_is_drawn_as_overlaid_bars():
    """Vega-Lite's words for it: another word draws another picture, or none."""
    spec = histogram({"a": [0.0, 30.0]})
    rows = spec.pop("data")["values"]
    assert [set(row) for row in rows] == [{"g", "a", "b", "v"}] * 30
    assert spec == {
        "width": "container",
        "height": 260,
        "params": [{"name": "focus", "value": None}],
        "mark": {"type": "bar", "opacity": 0.55},
        "encoding": {
            "x": {"field": "a", "type": "quantitative", "title": "score", "bin": "binned"},
            "x2": {"field": "b"},
            "y": {"field": "v", "type": "quantitative", "title": "share", "stack": None},
            "color": {"field": "g", "type": "nominal", "scale": {"domain": ["a"]}, "legend": None},
        },
    }


def test_calibration_is_drawn_as_a_line_beside_the_diagonal():
    axis = {"type": "quantitative", "scale": {"domain": [0, 1]}}
    assert calibration([]) == {
        "width": "container",
        "height": 260,
        "encoding": {
            "x": {"field": "predicted", "title": "predicted", **axis},
            "y": {"field": "observed", "title": "observed", **axis},
        },
        "layer": [
            {
                "data": {"values": [{"predicted": 0, "observed": 0}, {"predicted": 1, "observed": 1}]},
                "mark": {"type": "line", "strokeDash": [4, 4], "opacity": 0.5},
            },
            {
                "data": {"values": []},
                "mark": {"type": "line", "point": {"filled": True, "size": 50}},
                "encoding": {"tooltip": [{"field": "predicted"}, {"field": "observed"}, {"field": "n"}]},
            },
        ],
    }


def test_a_step_shows_its_probability_in_full_and_in_short():
    page = trace({"steps": ["a", "b"], "labels": [0, -1], "wrong": [0.12345, 0.996]})
    assert re.findall(r'title="([^"]*)"', page) == ["0.123", "0.996"]
    assert re.findall(r"<small>([^<]*)</small>", page) == ["0.12", "1.00"]
    assert re.findall(r"var\(--bad\) (\d+)%", page) == ["9", "70"]
    assert page.startswith('<article><pre tabindex="0"><span style="background: color-mix(in srgb, var(--bad) 9%')
    assert page.count("<br>") == 1
    assert page.index("b</span> ✗") > page.index("<br>")
    with pytest.raises(ValueError, match="zip"):
        trace({"steps": ["a"], "labels": [0, 1], "wrong": [0.5]})


def test_a_page_has_its_parts_in_order_and_says_what_they_are(tmp_path: Path):
    record = {"data": "held-out", "metric": "auc", "value": 0.875, "n": 40}
    result = Result(
        [record],
        lambda items: 0.0,
        [record],
        histograms={"right": [1.0, 2.0], "wrong": [0.0]},
        reliability=[{"predicted": 0.2, "observed": 0.4, "n": 3}],
        best_of={"model": [{"of": 2, "value": 0.5, "n": 9}], "majority": [{"of": 2, "value": 0.25, "n": 9}]},
        traces=[{"steps": ["1+1=3"], "labels": [-1], "wrong": [0.9]}, {"steps": ["4"], "labels": [1], "wrong": [0.1]}],
    )
    page = write_evaluation(tmp_path, result, title="ORM & co").read_text()
    text = re.sub(r"\s+", " ", re.sub(r"<script.*?</script>|<style.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL))
    said = [
        *("ORM &amp; co: evaluation", "RLHF Lab · reward model", "Held-out evaluation with 95 % intervals."),
        *("Numbers", "Data Metric Value n", "held-out auc 0.875 40", "Baselines"),
        "What needs no reward model: a model is worth what it is better than these.",
        *("Data Metric Value n", "Pictures", "right", "wrong", "Scores", "model", "majority", "Best of n"),
        "Share of questions answered rightly by the best-scored of n answers; exact over all subsets of n",
        *("Calibration", "Predicted against observed frequency; on the dashed line predictions are what they say"),
        "Steps",
        "Each step on the colour of its probability of being wrong; ✗ marks the steps that are labelled wrong.",
        *("1+1=3 ✗ 0.90", "4 0.10"),
    ]
    at = 0
    for words in said:
        found = text.find(words, at)
        assert found >= 0, f"{words!r} is not there, or not in its place"
        at = found + len(words)
    assert re.findall(r'<section[^>]*id="(\w+)"', page) == ["numbers", "baselines", "pictures", "steps"]
    for alt in (
        *("Histogram of scores. right: mean 1.50; wrong: mean 0.00", "Best-of-n accuracy by n", "Reliability diagram"),
    ):
        assert f'aria-label="{alt}"' in page
    charts = json.loads(re.search(r"<script[^>]*>(\{.*?)</script>", page, re.DOTALL)[1])["charts"]
    scores, best, calibrated = charts.values()
    assert scores == histogram(result.histograms)
    assert calibrated == calibration(result.reliability)
    assert best["height"] == 300
    assert '{"g": "majority", "s": 2, "v": 0.25, "n": "9 questions"}' in json.dumps(best)


def test_a_page_of_numbers_alone_has_no_picture(tmp_path: Path):
    page = write_evaluation(tmp_path, Result([], lambda items: 0.0), title="RM").read_text()
    assert json.loads(re.search(r"<script[^>]*>(\{.*?)</script>", page, re.DOTALL)[1])["charts"] == {}
    assert not re.search(r'id="(baselines|steps)"', page)
