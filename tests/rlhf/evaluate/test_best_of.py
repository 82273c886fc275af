"""Estimators over subsets against enumeration and closed forms."""

from itertools import combinations, permutations
from math import comb

import numpy as np
import pytest

from rlhf.evaluate.best_of import best_of, best_of_curve, chances_of_best, kl_of_best_of, pass_at_k
from rlhf.statistics import t_interval, wilson_of


def by_enumeration(score, right, n: int) -> float:
    """Over all subsets of n in all their orders: the first of the highest score is taken."""
    taken = []
    for subset in combinations(range(len(score)), n):
        for order in permutations(subset):
            taken.append(right[max(order, key=lambda i: score[i])])
    return float(np.mean(taken))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize(
    "score",
    [
        [0.3, 0.9, 0.9, 0.1, 0.5],
        [0.9, 0.9, 0.3, 0.3, 0.3],
        [1.0, 1.0, 1.0, 1.0, 1.0],
        [-5.0, -1.0, -2.0, -1.0, -9.0],
        [3e-7, 9e-7, 9e-7, 1e-7, 5e-7],  # close, and not tied
        [0.5, 0.5 + 1e-16, 0.5 + 3e-16, 0.5 - 3e-16, 0.5],
        [-400.0, -401.0, -400.0 + 1e-9, -900.0, -400.0],
    ],
)
def test_best_of_is_the_mean_over_all_subsets_and_orders(score: list[float], n: int):
    for gold in ([1, 0, 1, 1, 0], [-0.3, 2.5, 0.1, -7.0, 1.9]):
        assert best_of(np.array(score), np.array(gold), n) == pytest.approx(by_enumeration(score, gold, n))


def test_scores_that_are_close_are_no_ties():
    """A product of many steps: 1e-30 is ten times 1e-31, and its solution the better one."""
    assert best_of(np.array([1e-31, 1e-30]), np.array([False, True]), 2) == 1.0
    assert best_of(np.array([1e-30, 1e-30]), np.array([False, True]), 2) == 0.5


def test_best_of_does_not_depend_on_the_order_of_answers_or_on_a_rising_scale():
    rng = np.random.default_rng(0)
    score, right = rng.integers(0, 4, 9).astype(float), rng.random(9) < 0.4
    for n in (1, 3, 9):
        expected = best_of(score, right, n)
        order = rng.permutation(9)
        assert best_of(score[order], right[order], n) == pytest.approx(expected)
        assert best_of(np.exp(3 * score) - 7, right, n) == pytest.approx(expected)


def test_best_of_one_is_sampling_once_and_random_stays_there():
    rng = np.random.default_rng(0)
    right, question = rng.random(80) < 0.3, np.repeat(np.arange(10), 8)
    curves = best_of_curve({"model": right * 1.0, "random": np.zeros(80)}, right, question, data="d")
    assert [r["of"] for r in curves["model"]] == [1, 2, 4, 8]
    assert curves["model"][0]["value"] == pytest.approx(right.mean())
    assert [r["value"] for r in curves["random"]] == [pytest.approx(right.mean())] * 4
    assert curves["model"][3]["value"] == pytest.approx(np.mean([right[question == q].any() for q in range(10)]))


def test_curves_go_up_to_the_median_number_of_answers():
    """Of 1, 4, 5, 5 and 9 answers the median is 5: n = 1, 2, 4, and the question with one answer is left out."""
    sizes = [1, 4, 5, 5, 9]
    question = np.repeat(np.arange(5), sizes)
    right = np.concatenate([[True], *[np.arange(n) < 2 for n in sizes[1:]]])
    score = {"model": right * 1.0, "length": -(right * 1.0)}
    curves = best_of_curve(score, right, question, data="d")
    assert [(r["of"], r["metric"], r["n"]) for r in curves["model"]] == [
        (1, "best_of_1", 4), (2, "best_of_2", 4), (4, "best_of_4", 4),
    ]  # fmt: skip
    assert [r["metric"] for r in curves["length"]] == ["best_of_1_length", "best_of_2_length", "best_of_4_length"]
    assert curves["model"][0]["value"] == pytest.approx((2 / 4 + 2 / 5 + 2 / 5 + 2 / 9) / 4)
    assert curves["model"][2]["value"] == pytest.approx(
        np.mean([best_of(score["model"][question == q], right[question == q], 4) for q in range(1, 5)])
    )


def test_curves_of_gold_on_any_scale_have_students_interval():
    gold, question = np.array([3.0, -1.0, 5.0, 2.0, 0.5, 7.0]), np.repeat(np.arange(3), 2)
    (_, best) = best_of_curve({"model": gold}, gold, question, data="d")["model"]
    expected = t_interval([3.0, 5.0, 7.0])
    assert (best["value"], best["low"], best["high"], best["n"]) == pytest.approx(
        (expected.value, expected.low, expected.high, 3)
    )
    (_, share) = best_of_curve({"model": gold}, gold > 1, question, data="d")["model"]
    assert (share["low"], share["high"]) == (pytest.approx(wilson_of(1, 3).low), 1.0)


@pytest.mark.parametrize(("m", "c"), [(1, 0), (1, 1), (5, 0), (5, 2), (5, 4), (7, 7)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(m: int, c: int):
    right = [i < c for i in range(m)]
    for k in range(1, m + 1):
        subsets = [any(subset) for subset in combinations(right, k)]
        assert pass_at_k(m, c, k) == pytest.approx(np.mean(subsets))
        assert pass_at_k(m, c, k) == pytest.approx(1 - comb(m - c, k) / comb(m, k))


def test_pass_at_k_of_many_answers_is_the_closed_form():
    """C(2000, 1000) has 600 digits, more than a float holds."""
    for c, k in ((1, 1000), (3, 10), (700, 2), (1999, 1)):
        assert pass_at_k(2000, c, k) == pytest.approx(1 - comb(2000 - c, k) / comb(2000, k), rel=1e-12)


def test_pass_at_k_is_unbiased():
    """Its mean over the binomial number of right answers is 1 - (1-p)^k, the chance of k fresh samples."""
    m, p = 6, 0.3
    for k in range(1, m + 1):
        mean = sum(comb(m, c) * p**c * (1 - p) ** (m - c) * pass_at_k(m, c, k) for c in range(m + 1))
        assert mean == pytest.approx(1 - (1 - p) ** k)


def test_the_best_by_the_right_answer_itself_is_pass_at_k():
    right = np.array([0, 1, 0, 0, 1, 0])
    for k in range(1, 7):
        assert best_of(right, right, k) == pytest.approx(pass_at_k(6, 2, k))


def test_chances_of_best_are_the_closed_form():
    for m, n in ((1, 1), (6, 1), (6, 4), (6, 6), (1200, 600)):
        expected = [comb(m - 1 - i, n - 1) / comb(m, n) for i in range(m)]
        assert chances_of_best(m, n) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_kl_of_best_of_n_is_that_of_a_categorical_policy():
    """Of a policy over many answers that never tie, KL(best-of-n || policy) by its definition."""
    size, n = 4000, 8
    place = np.arange(1, size + 1) / size
    chosen = np.diff(place**n, prepend=0.0)  # P(the best of n draws is this one), each drawn with 1 / size
    assert kl_of_best_of(n) == pytest.approx(np.sum(chosen * np.log(np.maximum(chosen, 1e-300) * size)), rel=1e-3)
    assert kl_of_best_of(1) == 0.0
