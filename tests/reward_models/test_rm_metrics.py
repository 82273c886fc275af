"""Metrics against counts by hand and enumeration."""

from itertools import combinations

import numpy as np
import pytest

from reward_models.metrics import (
    auc,
    best_of,
    best_of_curve,
    calibration_error,
    estimate,
    f1_by_class,
    length_correlation,
    macro_f1,
    pair_accuracy,
    reliability,
)


def test_a_tie_counts_one_half():
    assert pair_accuracy(np.array([2.0, 1.0, 1.0]), np.array([1.0, 1.0, 2.0])).tolist() == [1.0, 0.5, 0.0]


def test_auc_by_hand():
    """Right 3, 2; wrong 2, 1: of four pairs three are won and one is tied: 3.5 / 4."""
    assert auc(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False])) == 3.5 / 4
    assert np.isnan(auc(np.array([1.0, 2.0]), np.array([True, True])))


def test_f1_by_hand():
    """Class 1: 1 hit, 1 miss, 0 false: 2/3. Class -1: 2 hits, 1 false: 4/5. Class 0 never: 0."""
    label, predicted = np.array([1, 1, -1, -1]), np.array([1, -1, -1, -1])
    assert f1_by_class(predicted, label, (-1, 0, 1)) == {-1: 0.8, 0: 0.0, 1: pytest.approx(2 / 3)}
    assert macro_f1(predicted, label, (-1, 1)) == pytest.approx((0.8 + 2 / 3) / 2)


def test_calibration_by_hand():
    """0.95 twice, once right: |0.95 - 0.5|; 0.05 twice, never: 0.05. Mean 0.25."""
    probability, happened = np.array([0.95, 0.95, 0.05, 0.05]), np.array([1, 0, 0, 0])
    assert calibration_error(probability, happened) == pytest.approx(0.25)
    assert [b["n"] for b in reliability(probability, happened)] == [2, 2]
    assert reliability(np.array([1.0]), np.array([1]))[0]["predicted"] == 1.0


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_best_of_is_the_mean_over_all_subsets(n: int):
    """With ties broken at random, which in the enumeration is their mean."""
    score, right = np.array([0.3, 0.9, 0.9, 0.1, 0.5]), np.array([1, 0, 1, 1, 0])
    means = []
    for subset in combinations(range(5), n):
        own = np.array(subset)
        best = own[score[own] == score[own].max()]
        means.append(right[best].mean())
    assert best_of(score, right, n) == pytest.approx(np.mean(means))


def test_best_of_one_is_sampling_once_and_random_stays_there():
    rng = np.random.default_rng(0)
    right, question = rng.random(80) < 0.3, np.repeat(np.arange(10), 8)
    curves = best_of_curve({"model": right * 1.0, "random": np.zeros(80)}, right, question, data="d")
    assert [r["of"] for r in curves["model"]] == [1, 2, 4, 8]
    assert curves["model"][0]["value"] == pytest.approx(right.mean())
    assert [r["value"] for r in curves["random"]] == [pytest.approx(right.mean())] * 4
    assert curves["model"][3]["value"] == np.mean([right[question == q].any() for q in range(10)])


def test_intervals_are_over_questions():
    """Eight copies of each of 50 coins say no more than the coins: the width is that of n = 50."""
    coins = np.random.default_rng(0).random(50) < 0.5
    values, question = np.repeat(coins, 8).astype(float), np.repeat(np.arange(50), 8)
    record = estimate(lambda i: float(values[i].mean()), question, data="d", metric="m")
    half = (record["high"] - record["low"]) / 2
    assert half == pytest.approx(1.96 * 0.5 / 50**0.5, rel=0.2)
    assert record["low"] <= record["value"] <= record["high"]


def test_length_correlation():
    assert length_correlation(np.array([1.0, 2.0, 3.0]), np.array([5, 6, 9])) == pytest.approx(1)
    assert length_correlation(np.array([1.0, 1.0]), np.array([5, 6])) == 0
