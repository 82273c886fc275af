"""What the picture of a claim shows, read from its spec."""

import json
from typing import Any

import pytest

from claims.claim import Arm, Claim, Curve, Expect, Measure, Paper
from claims.picture import _apart, draw
from claims.results import Results

CLAIM = Claim(
    sentence="Hot tea cools.",
    paper=Paper("Newton", 1701, "Scala graduum caloris"),
    setting="Three cups.",
    command="policy_gradients.train",
    arms={
        "small": Arm("", {}, line="cups", x=1.0),
        "large": Arm("", {}, line="cups", x=2.0),
        "lid": Arm("", {}),
    },
    x="litres",
    measures=[Measure("heat", "K", "felt"), Measure("weight", "kg", "lifted", drawn=False)],
    expected=[Expect("small", "<", "large"), Expect("small", "<", "large", of="weight")],
    beside=[Expect("lid", ">", "large")],
    curves=[Curve("heat, K", lambda path: []), Curve("loss, W", lambda path: [], ratio=True)],
    text="",
)
RESULTS = Results(
    seeds=[0, 1, 2],
    values={
        "heat": {"small": [1, 2, 3], "large": [3, 4, 5.5], "lid": [7, 8, float("nan")]},
        "weight": {arm: [1, 1, 1] for arm in CLAIM.arms},
    },
    curves={
        "heat, K": {"lid": [[(0, 9), (1, 8)], [(0, 9), (1, 6)], [(0, 9)]]},
        "loss, W": {"fan": [[(0, 1)], [(0, 10)], [(0, 100)]]},
    },
    seconds=1,
    commits=["abc"],
    processor="x",
)


def rows(spec: Any) -> list[dict[str, Any]]:
    """All rows of data in a figure."""
    if isinstance(spec, dict):
        own = spec.get("values", []) if isinstance(spec.get("values"), list) else []
        return own + [row for value in spec.values() for row in rows(value)]
    return [row for value in spec for row in rows(value)] if isinstance(spec, list) else []


def test_the_picture_says_what_it_shows() -> None:
    text = json.dumps(draw(CLAIM, RESULTS))
    for words in ("Hot tea cools.", "Newton, 1701. Three cups.", "3 seeds", "litres", "heat, K", "training step"):
        assert words in text
    assert "weight" not in text


def test_every_arm_is_there_by_its_line_or_its_seeds() -> None:
    found = rows(draw(CLAIM, RESULTS))
    assert {"g": "lid", "v": 7} in found
    assert len([row for row in found if row.get("g") == "lid" and set(row) == {"g", "v"}]) == 2  # one seed has none
    (line,) = [row for row in found if row.get("g") == "cups" and row.get("x") == 2.0 and "at" not in row]
    assert line["v"] == pytest.approx(4.1667)


def test_each_comparison_says_what_was_claimed_or_expected_of_it_and_what_was_found() -> None:
    figure = draw(CLAIM, RESULTS)
    texts = {row["g"]: row["t"] for row in rows(figure) if "t" in row}
    assert texts["small − large"].startswith("claimed < 0, seen: −2.17 [")
    assert texts["lid − large"].startswith("expected > 0, seen: +4 [")
    assert "difference of heat (K), paired by seed" in json.dumps(figure)


def test_a_curve_ends_where_a_seed_does() -> None:
    found = [row for row in rows(draw(CLAIM, RESULTS)) if row.get("g") == "lid" and "x" in row and "at" not in row]
    assert [(row["x"], row["v"]) for row in found] == [(0, 9)]


def test_a_curve_of_ratios_is_a_geometric_mean_on_a_logarithmic_axis() -> None:
    spec = draw(CLAIM, RESULTS)
    (point,) = [row for row in rows(spec) if row.get("g") == "fan" and "at" not in row]
    assert point["v"] == pytest.approx(10)
    assert point["l"] > 0
    assert '"title": "loss, W", "scale": {"type": "log"' in json.dumps(spec)


@pytest.mark.parametrize("log", [False, True])
def test_names_at_the_ends_of_lines_do_not_meet(log: bool) -> None:
    last = [{"g": name, "v": value, "l": None, "h": None} for name, value in [("a", 1.0), ("b", 1.001), ("c", 10.0)]]
    at = {row["g"]: row["at"] for row in _apart(last, last, log=log)}
    assert (at["a"], at["c"]) == pytest.approx((1, 10))
    assert at["b"] == pytest.approx(10**0.06 if log else 1 + 9 * 0.06)
