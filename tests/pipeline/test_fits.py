"""The forms of Gao et al. and what is read from a curve."""

import numpy as np
import pytest

from pipeline.fits import BEST_OF_N, RL, Coefficients, Form, fit
from pipeline.points import Curve, Point, best_of_points, coefficients, normalized, over_seeds, peak, summarize

D = np.array([0.0, 0.4, 0.9, 1.7, 2.6, 4.0])


@pytest.mark.parametrize("form", [BEST_OF_N, RL])
def test_fit_recovers_the_coefficients(form: Form) -> None:
    wanted = Coefficients(0.7, 0.31)
    assert fit(form, D, form(D, wanted)) == pytest.approx(wanted)


def test_forms_by_hand() -> None:
    """d = 2, a = 3, b = 0.5: best-of-n 2 (3 - 0.5 * 2) = 4; RL 2 (3 - 0.5 log 2) = 6 - log 2. At d = 0 both are 0."""
    at = Coefficients(3.0, 0.5)
    assert BEST_OF_N(np.array([0.0, 2.0]), at) == pytest.approx([0, 4])
    assert RL(np.array([0.0, 2.0]), at) == pytest.approx([0, 6 - np.log(2)])


@pytest.mark.parametrize("d", [[0.0, 1.0], [1.0, 1.0, 1.0]])
def test_too_little_for_a_fit(d: list[float]) -> None:
    assert fit(RL, np.array(d), np.ones(len(d))) is None


def point(step: int, kl: float, gold: list[float], proxy: list[float] | None = None) -> Point:
    return Point(step, kl, np.array(gold, dtype=float), np.array(proxy or gold, dtype=float))


def test_the_peak_is_not_chosen_by_the_problems_it_is_read_on() -> None:
    """Problems 0 and 2 are highest at step 1, problems 1 and 3 at step 2: each half is read where the other is
    highest, so nothing is gained from the noise of its own highest mean."""
    points = [point(0, 0, [0, 0, 0, 0]), point(1, 1, [1, 0, 1, 0]), point(2, 2, [0, 1, 0, 1])]
    gold, _ = peak(points)
    assert gold.tolist() == [0, 0, 0, 0]


def test_the_summary_of_a_rise_and_a_fall() -> None:
    """Gold 0, 1, 1/4 on four problems; proxy 0, 1, 3. From the peak on gold falls by 3/4, and proxy rises by 2."""
    points = [point(0, 0, [0] * 4, [0] * 4), point(5, 1, [1] * 4, [1] * 4), point(9, 4, [1, 0, 0, 0], [3] * 4)]
    summary = summarize(Curve("x", RL, {0: points}))
    assert (summary.start.value, summary.peak.value, summary.end.value) == (0, 1, 0.25)
    assert (summary.fall.value, summary.rise_of_proxy.value, summary.d_at_end.value) == (0.75, 2, 2)
    assert summary.fall.low is not None  # over problems


def test_over_seeds_the_interval_is_over_seeds() -> None:
    """Means 0.25 and 0.75: 0.5 ± t(0.975, 1) * s / sqrt(2), s = 0.3536, which is 12.706 * 0.25."""
    seeds = {s: [point(0, 0, [0] * 4), point(1, s, gold)] for s, gold in enumerate([[1, 0, 0, 0], [1, 1, 1, 0]])}
    estimate = over_seeds(Curve("x", RL, seeds), 1, "gold")
    assert estimate.value == 0.5
    assert estimate.high == pytest.approx(0.5 + 12.706 * 0.25, abs=1e-3)


def test_coefficients_are_fitted_to_the_gain_over_the_start_seed_by_seed() -> None:
    seeds = {}
    for seed, a in enumerate([1.0, 2.0]):
        gains = RL(D, Coefficients(a, 0.5))
        seeds[seed] = [point(i, d**2, [0.2 + gain] * 2) for i, (d, gain) in enumerate(zip(D, gains, strict=True))]
    found = coefficients(Curve("x", RL, seeds), "gold")
    assert found["a"].value == pytest.approx(1.5)
    assert found["b"].value == pytest.approx(0.5)
    assert found["a"].low is not None
    assert found["a"].low < 1


def test_best_of_n_of_two_problems() -> None:
    """Of the two answers to the first problem the proxy prefers the wrong one, of those to the second the right one. So
    n = 1 is right in half of the cases, n = 2 never and always. The start's scores have mean 1 and deviation 2."""
    measured = {"gold": [[1.0, 0.0], [1.0, 0.0]], "proxy": [[1.0, 3.0], [5.0, 1.0]]}
    one, two = best_of_points(measured, {"proxy": [-1.0, 3.0]})
    assert (one.gold.tolist(), two.gold.tolist()) == ([0.5, 0.5], [0.0, 1.0])
    assert (one.proxy.tolist(), two.proxy.tolist()) == ([0.5, 1.0], [1.0, 2.0])
    assert (one.kl, two.kl) == (0, pytest.approx(np.log(2) - 0.5))


def test_normalized_by_the_start() -> None:
    assert normalized([5.0], {"proxy": [1.0, 3.0]}).tolist() == [3.0]
