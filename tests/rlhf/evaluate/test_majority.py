"""Majority vote against enumeration."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from rlhf.evaluate import majority
from rlhf.evaluate.majority import majority_at


def by_enumeration(votes: list[str | None], gold: np.ndarray, k: int) -> float:
    """Over all subsets of k; tied answers share."""
    worth = {vote: np.mean([g for v, g in zip(votes, gold, strict=True) if v == vote]) for vote in votes}
    found = []
    for subset in combinations(votes, k):
        count = Counter(vote for vote in subset if vote is not None)
        first = [vote for vote, n in count.items() if n == max(count.values())]
        found.append(np.mean([worth[vote] for vote in first]) if first else 0.0)
    return float(np.mean(found))


@pytest.mark.parametrize(
    "votes",
    [
        ["a"],
        [None, None],
        ["a", "b", "b"],
        ["a", "a", "b", "b", "c", None],
        ["a", "b", "c", "d", "e"],
        [None, "a", None, "b", "b", "c", "c", "c", "d"],
        ["a"] * 5 + ["b"] * 4 + ["c"],
    ],
)
@pytest.mark.parametrize("gold", ["first", "graded"])
def test_majority_is_the_mean_over_all_subsets(votes: list[str | None], gold: str) -> None:
    right = np.array([float(vote == "a") for vote in votes])
    graded = np.array([ord(vote) - 98.5 if vote else 7.0 for vote in votes])
    worth = right if gold == "first" else graded
    sizes = range(1, len(votes) + 1)
    assert majority_at(votes, worth, sizes) == pytest.approx({k: by_enumeration(votes, worth, k) for k in sizes})


def test_ties_count_by_their_share() -> None:
    """One vote each: each of three answers has a third. Who does not vote does not tie."""
    votes, right = ["a", "b", "c", None], np.array([1.0, 0.0, 0.0, 0.0])
    found = majority_at(votes, right, [1, 4])
    assert found[4] == pytest.approx(1 / 3)
    assert found[1] == pytest.approx(1 / 4), "a completion without an answer is wrong"


def test_majority_of_one_and_two_is_the_share_of_right_answers() -> None:
    """Two answers agree or tie, so a second vote brings nothing."""
    rng = np.random.default_rng(0)
    votes = [str(vote) for vote in rng.integers(0, 4, 40)]
    right = np.array([float(vote == "2") for vote in votes])
    found = majority_at(votes, right, [1, 2])
    assert found == {1: pytest.approx(right.mean()), 2: pytest.approx(right.mean())}


def test_majority_of_all_is_the_largest_count() -> None:
    votes = ["a"] * 90 + ["b"] * 89 + [str(i) for i in range(77)]
    right = np.array([float(vote == "a") for vote in votes])
    found = majority_at(votes, right, [1, 64, len(votes)])
    assert found[len(votes)] == pytest.approx(1)
    assert right.mean() < found[64] < 1


def test_drawn_subsets_agree_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within three standard errors of 2000 draws; the same draws every time."""
    votes = ["a"] * 5 + ["b"] * 6 + ["c", None, None]
    right = np.array([float(vote == "a") for vote in votes])
    exact = majority_at(votes, right, [3, 7])
    monkeypatch.setattr(majority, "EXACT_UP_TO", 10)
    drawn = majority_at(votes, right, [3, 7])
    assert drawn == {k: pytest.approx(value, abs=3 * 0.5 / 2000**0.5) for k, value in exact.items()}
    assert drawn == majority_at(votes, right, [3, 7]) != exact
