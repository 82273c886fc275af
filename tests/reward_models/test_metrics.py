"""Metrics against counts by hand and enumeration."""

import math

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from reward_models.metrics import (
    auc,
    calibration_error,
    estimate,
    f1_by_class,
    length_correlation,
    macro_f1,
    pair_accuracy,
    ranks,
    reliability,
    share,
)
from rlhf.statistics import wilson_of
from rlhf.text.steps import CLASSES


def test_a_tie_counts_one_half():
    assert pair_accuracy(np.array([2.0, 1.0, 1.0]), np.array([1.0, 1.0, 2.0])).tolist() == [1.0, 0.5, 0.0]


def test_auc_by_hand():
    """Right 3, 2; wrong 2, 1: of four pairs three are won and one is tied: 3.5 / 4."""
    assert auc(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False])) == 3.5 / 4
    assert np.isnan(auc(np.array([1.0, 2.0]), np.array([True, True])))


def test_f1_by_hand():
    """Class 1: 1 hit, 1 miss, 0 false: 2/3. Class -1: 2 hits, 1 false: 4/5. No label is 0, so it has no F1."""
    label, predicted = np.array([1, 1, -1, -1]), np.array([1, -1, -1, -1])
    found = f1_by_class(predicted, label, CLASSES)
    assert found == {-1: 0.8, 0: pytest.approx(math.nan, nan_ok=True), 1: pytest.approx(2 / 3)}


def test_a_class_that_no_label_has_does_not_lower_macro_f1():
    """Two classes of three: the mean of their two, and 1 where every label is found."""
    label, predicted = np.array([1, 1, -1, -1]), np.array([1, -1, -1, -1])
    assert macro_f1(predicted, label, CLASSES) == pytest.approx((0.8 + 2 / 3) / 2)
    assert macro_f1(label, label, CLASSES) == 1.0


def test_a_class_that_is_only_predicted_is_a_miss_of_the_right_one():
    """One 1 of two is called 0: F1 of 1 is 2/3, of -1 is 1; 0 adds no F1 of 0. (scikit-learn with labels=[-1, 1].)"""
    label, predicted = np.array([1, 1, -1]), np.array([1, 0, -1])
    assert macro_f1(predicted, label, CLASSES) == pytest.approx((2 / 3 + 1) / 2)
    found = f1_by_class(predicted, label, CLASSES)
    assert math.isnan(found[0])
    assert found[1] == pytest.approx(2 / 3)


def test_a_class_that_is_never_found_has_f1_0():
    """Labels 0 are there, and called 1: F1 0; 1 has one hit and one false: 2/3."""
    label, predicted = np.array([0, 1]), np.array([1, 1])
    assert f1_by_class(predicted, label, CLASSES)[0] == 0.0
    assert macro_f1(predicted, label, CLASSES) == pytest.approx(1 / 3)


def test_calibration_by_hand():
    """0.95 twice, once right: |0.95 - 0.5|; 0.05 twice, never: 0.05. Mean 0.25."""
    probability, happened = np.array([0.95, 0.95, 0.05, 0.05]), np.array([1, 0, 0, 0])
    assert calibration_error(probability, happened) == pytest.approx(0.25)
    assert [b["n"] for b in reliability(probability, happened)] == [2, 2]
    assert reliability(np.array([1.0]), np.array([1]))[0]["predicted"] == 1.0


def test_records_name_their_data_and_metric():
    values, question = np.array([1.0, 0.0, 1.0]), np.array([0, 1, 2])
    for record in (
        estimate(lambda i: float(values[i].mean()), question, data="d", metric="m"),
        share(values, question, data="d", metric="m"),
    ):
        assert record["data"] == "d"
        assert record["metric"] == "m"
        assert record["n"] == 3


def test_shares_are_over_questions():
    values, question = [1.0, 1.0, 0.0, 0.0, 1.0, 1.0], np.repeat([0, 1, 2], 2)
    found = share(np.array(values), question, data="d", metric="m")
    expected = wilson_of(2 / 3, 3)
    assert (found["low"], found["high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_auc_does_not_depend_on_order_or_scale():
    """And turned round it is the rest to 1; by counting all pairs."""
    rng = np.random.default_rng(3)
    score, right = rng.integers(0, 6, 30).astype(float), rng.random(30) < 0.4
    won = [(a > b) + 0.5 * (a == b) for a in score[right] for b in score[~right]]
    assert auc(score, right) == pytest.approx(np.mean(won))
    order = rng.permutation(30)
    assert auc(np.exp(score[order]), right[order]) == pytest.approx(np.mean(won))
    assert auc(-score, right) == pytest.approx(1 - np.mean(won))
    assert np.isnan(auc(score, np.zeros(30, dtype=bool)))


def test_bins_of_calibration_are_tenths():
    """0.1 and 0.19 together, 0.2 and 0.85 alone, 1 with 0.95; each weighs by its number."""
    probability, happened = np.array([0.1, 0.19, 0.2, 1.0, 0.95, 0.85]), np.array([1, 0, 1, 1, 0, 1])
    found = reliability(probability, happened)
    assert [(b["n"], b["predicted"], b["observed"]) for b in found] == [
        (2, pytest.approx(0.145), 0.5), (1, 0.2, 1.0), (1, 0.85, 1.0), (2, pytest.approx(0.975), 0.5),
    ]  # fmt: skip
    assert calibration_error(probability, happened) == pytest.approx((2 * 0.355 + 0.8 + 0.15 + 2 * 0.475) / 6)


def test_intervals_are_over_questions():
    """Eight copies of each of 50 coins say no more than the coins: the width is that of n = 50."""
    coins = np.random.default_rng(0).random(50) < 0.5
    values, question = np.repeat(coins, 8).astype(float), np.repeat(np.arange(50), 8)
    record = estimate(lambda i: float(values[i].mean()), question, data="d", metric="m")
    half = (record["high"] - record["low"]) / 2
    assert half == pytest.approx(1.96 * 0.5 / 50**0.5, rel=0.2)
    assert record["low"] <= record["value"] <= record["high"]


def test_ranks_and_their_correlation_are_scipys():
    rng = np.random.default_rng(0)
    for size in (2, 3, 50):
        score, length = rng.integers(0, 9, size) / 7, rng.integers(0, 5, size)
        assert ranks(score).tolist() == rankdata(score).tolist()
        if np.ptp(score) and np.ptp(length):
            assert length_correlation(score, length) == pytest.approx(spearmanr(score, length).statistic, abs=1e-12)
    assert ranks(np.array([5.0, -1.0, 5.0])).tolist() == [2.5, 1, 2.5]


def test_length_correlation():
    assert length_correlation(np.array([3.0, 2.0, 1.0, 9.0]), np.array([5, 6, 7, 8])) == pytest.approx(-0.2 + 0.4)
    assert length_correlation(np.array([1.0, 2.0]), np.array([5, 5])) == 0
    assert length_correlation(np.array([1.0, 2.0, 3.0]), np.array([5, 6, 9])) == pytest.approx(1)
    assert length_correlation(np.array([1.0, 1.0]), np.array([5, 6])) == 0
