"""What claims about reward models measure, on a few completions by hand."""

import numpy as np
import pytest

from claims.reward_models.judged import Judged

RIGHT = np.array([[1.0, 0, 0], [1, 1, 1], [0, 1, 1]])
LENGTH = np.array([[2.0, 3, 1], [1, 1, 1], [4, 3, 4]])
SCORE = np.array([[0.5, 0.1, 0.9], [0, 0, 0], [0.2, 0.3, 0.4]])


def test_pairs_are_of_one_problem_and_a_problem_weighs_once() -> None:
    """The second problem has no contrast. Of the first, one of two pairs is right, of the third both are."""
    score, length, weight = Judged(RIGHT, LENGTH, SCORE).pairs
    assert score == pytest.approx([0.4, -0.4, 0.1, 0.2])
    assert length.tolist() == [-1, 1, -1, 0]
    assert weight.tolist() == [0.5] * 4
    assert Judged(RIGHT, LENGTH, SCORE).accuracy() == 0.75
    assert Judged(RIGHT[:1, :2], LENGTH[:1, :2], SCORE[:1, :2]).accuracy() == 1
    unequal = Judged(
        np.array([[1.0, 0, 0, 0], [1, 0, 1, 1]]), np.ones((2, 4)), np.array([[3.0, 0, 1, 2], [0, 1, 2, 0]])
    )
    assert unequal.accuracy() == pytest.approx((1 + 1 / 3) / 2)


def test_accuracy_where_the_right_one_is_shorter() -> None:
    assert Judged(RIGHT, LENGTH, SCORE).accuracy(shorter=True) == 1
    assert Judged(RIGHT, LENGTH, -SCORE).accuracy(shorter=True) == 0


def test_best_of_n_is_what_the_scores_choose() -> None:
    assert Judged(RIGHT, LENGTH, SCORE).best_of(3) == pytest.approx(2 / 3)
    assert Judged(RIGHT, LENGTH, SCORE).best_of(1) == pytest.approx((1 / 3 + 1 + 2 / 3) / 3)
