"""Verdicts by hand: on which side of equal the interval of the paired differences lies."""

import math

import pytest

from claims.claim import Arm, Claim, Curve, Expect, Measure, Paper
from claims.verdicts import compare, over_seeds, overall
from claims.words import between, claimed, compared, number

LENGTH = Measure("length", "tokens", "how many")
VARIANCE = Measure("variance", "", "how much", ratio=True)


def test_the_interval_is_that_of_paired_differences() -> None:
    """Seeds differ by 10 and 20, arms by 1, 2 and 3: mean 2, s = 1, t(0.975, 2) = 4.3027, so 2 ± 4.3027 / sqrt(3)."""
    found = compare(Expect("b", ">", "a"), LENGTH, [11, 22, 33], [10, 20, 30]).found
    assert found.value == pytest.approx(2)
    assert (found.low, found.high) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-4)
    otherwise = compare(Expect("b", ">", "a"), LENGTH, [11, 22, 33], [30, 10, 20]).found  # other pairs
    assert otherwise.value == pytest.approx(2)
    assert otherwise.low == pytest.approx(2 - 4.30265 * 331**0.5 / 3**0.5, abs=1e-3)  # s^2 of -19, 12 and 13


@pytest.mark.parametrize(
    ("sign", "left", "verdict"),
    [
        ("<", [1.0, 1.1, 0.9], "seen"),
        (">", [1.0, 1.1, 0.9], "opposite"),
        ("<", [3.0, 3.1, 2.9], "opposite"),
        (">", [3.0, 3.1, 2.9], "seen"),
        ("<", [1.9, 2.2, 2.0], "not seen"),
        (">", [1.9, 2.2, 2.0], "not seen"),
        ("<", [1.0], "one seed"),
        ("<", [1.0, math.nan, math.nan], "one seed"),
        ("<", [math.nan] * 3, "one seed"),
        ("<", [1.0, math.nan, 1.1], "seen"),
    ],
)
def test_verdict_of_a_difference(sign: str, left: list[float], verdict: str) -> None:
    right = [2.0, 2.1, 1.9][: len(left)] if verdict != "not seen" else [2.0, 2.0, 2.1]
    if left == [1.0, math.nan, 1.1]:
        right = [2.0, 9.0, 2.12]
    assert compare(Expect("a", sign, "b"), LENGTH, left, right).verdict == verdict


@pytest.mark.parametrize(
    ("within", "left", "verdict"),
    [
        (0.5, [2.0, 2.1, 1.9], "seen"),
        (0.01, [2.05, 2.1, 1.9], "not seen"),
        (0.5, [5.0, 5.1, 4.9], "opposite"),
        (0.5, [-1.0, -1.1, -0.9], "opposite"),
    ],
)
def test_equal_is_an_interval_that_lies_near_zero(within: float, left: list[float], verdict: str) -> None:
    assert compare(Expect("a", "=", "b", within=within), LENGTH, left, [2.0, 2.1, 2.0]).verdict == verdict


def test_an_interval_that_ends_where_equal_begins_is_not_outside() -> None:
    above, below = [5.0, 5.1, 4.9], [2.0, 2.1, 2.0]
    found = compare(Expect("a", "=", "b"), LENGTH, above, below).found
    assert found.low is not None
    for left, right in ((above, below), (below, above)):
        expected = Expect("a", "=", "b", within=found.low)
        assert compare(expected, LENGTH, left, right).verdict == "not seen"
        nearer = Expect("a", "=", "b", within=found.low - 1e-9)
        assert compare(nearer, LENGTH, left, right).verdict == "opposite"


def test_a_ratio_is_a_geometric_mean_around_one() -> None:
    """log 2 and log 8 average to log 4."""
    one = compare(Expect("a", ">", "b"), VARIANCE, [2.0, 8.0], [1.0, 1.0])
    assert one.found.value == pytest.approx(4)
    assert one.verdict == "not seen"  # of two seeds that differ so much
    assert compare(Expect("a", "<", "b"), VARIANCE, [1.0, 1.01, 0.99], [2.0] * 3).verdict == "seen"
    assert compare(Expect("a", "=", "b", within=0.1), VARIANCE, [1.0, 1.01, 0.99], [1.0] * 3).verdict == "seen"


def test_an_arm_that_is_compared_by_ratio_has_a_geometric_mean() -> None:
    """log 2 and log 8 have mean log 4 and s = sqrt(2) log 2: t(0.975, 1) / sqrt(2) = 8.9846 of it to either side."""
    found = over_seeds(VARIANCE, [2.0, 8.0])
    assert found is not None
    assert found.value == pytest.approx(4)
    assert found.low is not None
    assert found.high is not None
    assert math.log(found.high / 4) == pytest.approx(8.9846 * 2**0.5 * math.log(2), rel=1e-4)
    assert found.low * found.high == pytest.approx(16)


def test_intervals_of_shares_are_cut_at_what_is_possible() -> None:
    share = Measure("success", "share right", "counted")
    for measure, low, high in ((share, 0.0, 1.0), (LENGTH, -0.4676, 1.6009)):
        found = over_seeds(measure, [0.1, 0.9, 0.7, math.nan])
        assert found is not None
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)
        assert found.n == 3
    assert over_seeds(share, [math.nan]) is None
    assert Curve("held-out accuracy, share right", lambda path: []).bounds == (0, 1)


def test_a_claim_with_several_comparisons_says_how_many_are_what() -> None:
    def one(left: list[float]):
        return compare(Expect("a", "<", "b"), LENGTH, left, [2.0, 2.1, 1.9])

    low, high = one([1.0, 1.1, 0.9]), one([3.0, 3.1, 2.9])
    assert overall([low, low]) == "seen"
    assert overall([high, low, low]) == "2 seen, 1 opposite"
    assert overall([one([1.0]), low, one([2.0, 2.0, 2.1])]) == "1 seen, 1 not seen, 1 one seed"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.5678, "−0.568"),
        (0.001, "0.001"),
        (0.00085, "8.5e−4"),
        (-1.26e-11, "−1.3e−11"),
        (1e-13, "0"),
        (math.nan, "–"),
    ],
)
def test_numbers_have_three_digits_and_a_true_minus(value: float, text: str) -> None:
    assert number(value) == text


def test_comparisons_in_words() -> None:
    below = compare(Expect("a", "<", "b"), LENGTH, [1.0, 1.1, 0.9], [2.0, 2.1, 1.9])
    assert (compared(below), claimed(below), between(below)) == ("a − b", "< 0", "−1 [−1, −1]")
    above = compare(Expect("a", ">", 0.0), LENGTH, [1.0, 2.0], [0.0, 0.0])
    assert (compared(above), claimed(above), between(above)) == ("a", "> 0", "+1.5 [−4.85, 7.85]")
    ratio = compare(Expect("a", "=", "b", within=0.1), VARIANCE, [3.0], [2.0])
    assert (compared(ratio), claimed(ratio), between(ratio)) == ("a / b", "within 0.1 of 1", "× 1.5")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expected": [Expect("a", "<", "c")]}, "no arm 'c'"),
        ({"beside": [Expect("a", "<", "c")]}, "no arm 'c'"),
        ({"expected": [Expect("a", "<", "b", of="height")]}, "no measure 'height'"),
        ({"command": "policy_gradients.train"}, "either a command or a computation"),
    ],
)
def test_a_claim_that_contradicts_itself(change: dict, message: str) -> None:
    settings = {
        "sentence": "a is shorter than b.",
        "paper": Paper("A", 2020, "B"),
        "setting": "",
        "arms": {"a": Arm("one"), "b": Arm("other")},
        "measures": [LENGTH],
        "expected": [Expect("a", "<", "b")],
        "compute": lambda seed: {},
        "text": "",
    }
    with pytest.raises(ValueError, match=message):
        Claim(**settings | change)
