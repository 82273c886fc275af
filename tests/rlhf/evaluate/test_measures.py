"""One number a problem: by hand, and paired over problems."""

import numpy as np
import pytest

from rlhf.evaluate.measures import Attempts, differences, per_problem, records
from rlhf.statistics import paired, t_interval, wilson

RIGHT = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]], dtype=float)
VOTES = [["a", "b", "c", "d"], ["x", "x", None, "y"], ["a", "a", "b", "b"]]


def test_metrics_of_each_problem_by_hand() -> None:
    """Of 4 answers 1, 0 and 2 are right. Two of four: 1 - C(3,2)/C(4,2) = 1/2, 0, and 1 - 1/6. The majority of four: a
    tie of four, the wrong x, a tie of two."""
    found = per_problem(Attempts(np.array([1.0, 0.0, 1.0]), RIGHT, VOTES))
    expected = {
        "accuracy_greedy": [1, 0, 1],
        "avg@4": [1 / 4, 0, 1 / 2],
        "pass@1": [1 / 4, 0, 1 / 2],
        "pass@2": [1 / 2, 0, 5 / 6],
        "pass@4": [1, 0, 1],
        "majority@1": [1 / 4, 0, 1 / 2],
        "majority@2": [1 / 4, 0, 1 / 2],
        "majority@4": [1 / 4, 0, 1 / 2],
    }
    assert list(found) == list(expected)
    for metric, values in expected.items():
        assert found[metric] == pytest.approx(values), metric


def test_rewards_have_a_mean_and_a_best() -> None:
    found = per_problem(Attempts(np.array([0.5]), np.array([[-1.0, 3.0]]), votes=None))
    assert {metric: value.tolist() for metric, value in found.items()} == {
        "reward_greedy": [0.5], "reward_avg@2": [1.0], "reward_best@1": [1.0], "reward_best@2": [3.0],
    }  # fmt: skip


def test_intervals_are_over_problems() -> None:
    values = per_problem(Attempts(np.array([1.0, 0.0, 1.0]), RIGHT, VOTES))
    by_metric = {it["metric"]: it for it in records(values, data="d")}
    expected = wilson(values["pass@2"])
    assert by_metric["pass@2"] == {
        "data": "d", "metric": "pass@2", "value": expected.value, "n": 3, "low": expected.low, "high": expected.high,
    }  # fmt: skip
    rewards = {"reward_greedy": np.array([2.0, 5.0, -1.0])}
    assert records(rewards, data="d")[0]["low"] == t_interval(rewards["reward_greedy"]).low


def test_differences_are_problem_by_problem() -> None:
    before, after = {"avg@2": np.array([0.0, 0.5, 1.0, 0.5])}, {"avg@2": np.array([0.5, 0.5, 0.5, 1.0]), "other": RIGHT}
    (found,) = differences(after, before, data="d")
    expected = paired(after["avg@2"], before["avg@2"])
    assert (found["won"], found["lost"], found["tied"]) == (2, 1, 1)
    assert (found["metric"], found["value"]) == ("avg@2_difference", 0.125)
    assert (found["low"], found["high"]) == (expected.low, expected.high)
