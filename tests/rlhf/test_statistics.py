"""Intervals: closed forms, units that are not independent, and coverage on a distribution that is known."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, mannwhitneyu, norm, t, trim_mean

from rlhf import statistics
from rlhf.statistics import (
    RESAMPLES,
    Estimate,
    Z,
    bootstrap,
    bootstrap_runs,
    in_brackets,
    interquartile_mean,
    over_seeds_text,
    paired,
    paired_runs,
    probability_of_improvement,
    record,
    t_interval,
    wilson,
    wilson_of,
)


def half(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    return (estimate.high - estimate.low) / 2


def clustered(rng: np.random.Generator, *, clusters: int, size: int, p: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Yes or no, mean `p`: two answers of three repeat what the cluster says, the others are their own."""
    said = rng.random(clusters) < p
    own = rng.random((clusters, size)) < p
    repeats = rng.random((clusters, size)) < 2 / 3
    return np.where(repeats, said[:, None], own).ravel().astype(float), np.repeat(np.arange(clusters), size)


# ------------------------------------------------------------------------------------------------------------ mean


def test_the_quantile_is_that_of_95_percent():
    assert pytest.approx(norm.ppf(0.975), abs=1e-15) == Z
    assert f"{Z:.6f}" == "1.959964"


def test_a_mean_of_independent_values_by_hand():
    """1, 2, 3, 4: mean 2.5, s² = 5/3, t(0.975, 3) = 3.182446: ± 3.182446 sqrt(5/12) = 2.054260."""
    found = t_interval([1.0, 2.0, 3.0, 4.0])
    assert (found.value, found.n) == (2.5, 4)
    assert found.low == pytest.approx(2.5 - 2.054260, abs=1e-6)
    assert found.high == pytest.approx(2.5 + 2.054260, abs=1e-6)
    assert t_interval([1.0, 2.0, 3.0, 4.0], ["d", "a", "c", "b"]) == found


def test_a_mean_over_clusters_by_hand():
    """(1, 3) and (5), (7): mean 4. Sums of what is over it: -4, 1, 3. se² = 3/2 * 26 / 16; t(0.975, 2)."""
    found = t_interval([1.0, 5.0, 3.0, 7.0], [0, 1, 0, 2])
    assert found.value == 4.0
    assert half(found) == pytest.approx(t.ppf(0.975, 2) * math.sqrt(1.5 * 26 / 16))


def test_copies_say_no_more_than_what_they_are_copies_of():
    values = [0.2, 0.5, 0.9, 0.4]
    once, twice = t_interval(values), t_interval(values * 3, [0, 1, 2, 3] * 3)
    assert half(twice) == pytest.approx(half(once))
    assert half(t_interval(values * 3)) < 0.6 * half(once)
    yes = [1.0, 0.0, 1.0, 1.0, 0.0]
    assert half(wilson(yes * 3, [0, 1, 2, 3, 4] * 3)) == pytest.approx(half(wilson(yes)))


@pytest.mark.parametrize("interval", [t_interval, wilson])
def test_order_and_names_of_clusters_do_not_matter(interval):
    values, cluster = clustered(np.random.default_rng(0), clusters=9, size=4)
    order = np.random.default_rng(1).permutation(len(values))
    assert interval(values[order], cluster[order]) == pytest.approx(interval(values, cluster))
    assert interval(values, [f"question {c}" for c in cluster]) == pytest.approx(interval(values, cluster))


def test_a_unit_scales_a_mean_and_its_interval():
    cluster = [0, 0, 1, 2, 2]
    one, other = t_interval([1.0, 2.0, 4.0, 8.0, 3.0], cluster), t_interval([10.0, 20.0, 40.0, 80.0, 30.0], cluster)
    assert other[:3] == pytest.approx([10 * x for x in one[:3]])


@pytest.mark.parametrize("interval", [t_interval, lambda x, c: bootstrap(lambda i: float(np.mean(x)), c)])
def test_one_cluster_has_no_interval(interval):
    found = interval([0.4, 0.4], ["q", "q"])
    assert found == Estimate(pytest.approx(0.4), None, None, 2)
    assert t_interval([0.4]) == Estimate(0.4, None, None, 1)


def test_each_value_needs_its_cluster():
    with pytest.raises(ValueError, match="3 values and 2 clusters"):
        t_interval([1.0, 2.0, 3.0], [0, 1])


# ----------------------------------------------------------------------------------------------------------- share


@pytest.mark.parametrize(("yes", "n"), [(0, 20), (1, 29), (81, 263), (5, 5), (1, 1)])
def test_wilson_is_that_of_scipy(yes: int, n: int):
    expected = binomtest(yes, n).proportion_ci(0.95, method="wilson")
    for found in (wilson_of(yes / n, n), wilson([1.0] * yes + [0.0] * (n - yes))):
        assert found[:3] == pytest.approx((yes / n, expected.low, expected.high), abs=1e-12)
        assert found.n == n


def test_wilson_by_hand():
    """5 of 10: z² = 3.841459; middle (0.5 + 0.192073) / 1.384146 = 0.5; half z sqrt(0.025 + 0.009604) / 1.384146."""
    found = wilson_of(0.5, 10)
    assert half(found) == pytest.approx(1.959964 * math.sqrt(0.025 + 3.841459 / 400) / 1.3841459, abs=1e-6)
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_clusters_count_as_their_effective_number():
    """Six clusters of two equal answers are six; of two that are independent by the data, twelve."""
    copies = wilson([1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0], np.repeat(np.arange(6), 2))
    assert copies[:3] == pytest.approx(wilson_of(0.5, 6)[:3])
    # (1,1), (0,0), (1,0), (0,1): sums of what is over 1/2 are 1, -1, 0, 0, so se² = 2/64 = p(1-p)/8
    independent = wilson([1, 1, 0, 0, 1, 0, 0, 1], np.repeat(np.arange(4), 2))
    assert independent[:3] == pytest.approx(wilson_of(0.5, 8)[:3])
    # opposites within each cluster: se² is 0, and each cluster counts once
    opposite = wilson([1, 0, 1, 0, 0, 1], np.repeat(np.arange(3), 2))
    assert opposite[:3] == pytest.approx(wilson_of(0.5, 3)[:3])
    # nearly opposites: no more than the items that there are
    nearly = wilson([1, 0] * 9 + [1, 1], np.repeat(np.arange(10), 2))
    assert nearly[:3] == pytest.approx(wilson_of(11 / 20, 20)[:3])


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_where_nothing_varies_clusters_count(value: float):
    """All right, all wrong, or nothing but ties: no certainty, and twenty answers to two questions are two."""
    found = wilson([value] * 20, [0] * 10 + [1] * 10)
    assert found[:3] == pytest.approx(wilson_of(value, 2)[:3])
    assert half(found) > 0.3
    assert found.n == 20


def test_a_share_stays_within_bounds_and_holds_its_value():
    for yes in range(8):
        found = wilson_of(yes / 7, 7)
        assert 0 <= found.low <= found.value <= found.high <= 1
    assert (wilson_of(0.0, 7).low, wilson_of(1.0, 7).high) == (0.0, 1.0)


# ------------------------------------------------------------------------------------------------------- bootstrap


def test_percentiles_of_a_bootstrap_by_its_distribution():
    """Of n coins the resampled mean is Binomial(n, p)/n: its 2.5 % and 97.5 % quantiles, within Monte Carlo error."""
    coins = np.array([1.0] * 60 + [0.0] * 140)
    found = bootstrap(lambda i: float(coins[i].mean()), np.arange(200))
    assert (found.value, found.n) == (0.3, 200)
    sd = math.sqrt(0.3 * 0.7 / 200)
    assert found.low == pytest.approx(0.3 - Z * sd, abs=0.25 * sd)
    assert found.high == pytest.approx(0.3 + Z * sd, abs=0.25 * sd)


def test_a_bootstrap_draws_whole_clusters():
    """Every resample has each cluster whole, some number of times; as many clusters as there are."""
    cluster, seen = np.array([0, 1, 1, 2, 2, 2]), []

    def statistic(items: np.ndarray) -> float:
        seen.append(np.bincount(items, minlength=6))
        return float(items.sum())

    bootstrap(statistic, cluster)
    assert len(seen) == RESAMPLES + 1
    for counts in seen:
        assert counts[1] == counts[2]
        assert counts[3] == counts[4] == counts[5]
        assert counts[0] + counts[1] + counts[3] == 3
    assert seen[0].tolist() == [1] * 6
    assert len({tuple(counts) for counts in seen}) > 5


def test_two_clusters_have_an_interval():
    """Resamples are (0, 0), (0, 1) or (1, 1): means from 0 to 1."""
    found = bootstrap(lambda i: float(np.array([0.0, 1.0])[i].mean()), [7, 3])
    assert found == Estimate(0.5, 0.0, 1.0, 2)


def test_a_bootstrap_is_the_same_every_time():
    values = np.random.default_rng(0).random(30)
    first, second = (bootstrap(lambda i: float(values[i].mean()), np.arange(30)) for _ in range(2))
    assert first == second


def test_a_bootstrap_without_variation_knows_no_interval():
    """All questions right in all resamples: [1.000, 1.000] would be a certainty that nobody has."""
    assert bootstrap(lambda i: 1.0, np.arange(50)) == Estimate(1.0, None, None, 50)
    found = bootstrap(lambda i: float("nan"), np.arange(5))
    assert (found.low, found.high) == (None, None)


def test_resamples_without_the_statistic_are_left_out():
    """The mean of the first item's copies: nan where it was not drawn."""
    values = np.array([5.0, 1.0, 2.0, 4.0, 3.0])

    def statistic(items: np.ndarray) -> float:
        return float(values[items].mean()) if (items == 0).any() else float("nan")

    found = bootstrap(statistic, np.arange(5))
    assert found.low > 1.6
    assert found.high < 5


def test_an_interval_holds_its_value():
    """A maximum is above all that is drawn but itself; the interval reaches it."""
    values = np.arange(10.0)
    found = bootstrap(lambda i: float(values[i].max() if len(set(i)) < 10 else 99.0), np.arange(10))
    assert (found.value, found.high) == (99.0, 99.0)
    found = bootstrap(lambda i: float(values[i].max() if len(set(i)) < 10 else -99.0), np.arange(10))
    assert (found.value, found.low) == (-99.0, -99.0)


# -------------------------------------------------------------------------------------------------------- coverage


def test_intervals_over_clusters_hold_95_percent_and_those_over_items_do_not():
    """400 samples of 40 questions with 6 answers each: within 2.5 standard errors of 95 %, and well below it."""
    rng = np.random.default_rng(0)
    held = dict.fromkeys(("t", "wilson", "t of items", "wilson of items"), 0)
    for _ in range(400):
        values, cluster = clustered(rng, clusters=40, size=6)
        for name, found in {
            "t": t_interval(values, cluster),
            "wilson": wilson(values, cluster),
            "t of items": t_interval(values),
            "wilson of items": wilson(values),
        }.items():
            held[name] += found.low <= 0.3 <= found.high
    share = {name: count / 400 for name, count in held.items()}
    error = 2.5 * math.sqrt(0.95 * 0.05 / 400)
    assert abs(share["t"] - 0.95) < error
    assert abs(share["wilson"] - 0.95) < error
    assert share["t of items"] < 0.85
    assert share["wilson of items"] < 0.85


def test_a_bootstrap_over_clusters_holds_its_level(monkeypatch):
    """100 samples of 40 questions; percentiles, here of 200 resamples, are a little narrow."""
    monkeypatch.setattr(statistics, "RESAMPLES", 200)
    rng, held = np.random.default_rng(1), 0
    for _ in range(100):
        values, cluster = clustered(rng, clusters=40, size=3)
        found = bootstrap(lambda i, v=values: float(v[i].mean()), cluster)
        held += found.low <= 0.3 <= found.high
    assert 88 <= held <= 99


# ------------------------------------------------------------------------------------------------------------ text


def test_paired_difference_by_hand():
    """Of 10 problems 4 are won and 1 is lost. With one more of each, p+ = 5/12 and p- = 2/12:
    3/12 ± z √((7/12 - (3/12)²) / 12), and the value is 3/10."""
    before, after = [0, 0, 0, 0, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 1, 1, 1, 0, 0]
    found = paired(after, before)
    half_width = Z * math.sqrt((7 / 12 - 1 / 16) / 12)
    assert found == pytest.approx((0.3, 0.25 - half_width, 0.25 + half_width, 10))
    back = paired(before, after)
    assert (back.low, back.high) == (pytest.approx(-found.high), pytest.approx(-found.low))


def test_methods_that_agree_everywhere_are_not_known_to_be_equal():
    for values in ([1.0] * 20, [0.0] * 20, [0.25, 0.75]):
        found = paired(values, values)
        assert found.value == 0.0
        assert found.low == pytest.approx(-found.high)
        assert half(found) == pytest.approx(Z * math.sqrt(2) / (len(values) + 2))


def test_paired_difference_of_rewards_is_students():
    after, before = np.array([2.0, 5.0, -1.0]), np.array([1.0, 1.5, 0.0])
    assert paired(after, before) == t_interval(after - before)


@pytest.mark.parametrize(("n", "p", "gain"), [(20, 0.3, 0.0), (50, 0.3, 0.1), (50, 0.9, 0.08), (200, 0.97, 0.01)])
def test_paired_intervals_hold_95_percent(n: int, p: float, gain: float):
    """Answers are right with p before; of these 2 % go wrong, and as many wrong ones come right that the difference is
    `gain`. For one answer to each problem, and for the mean of 4."""
    rng = np.random.default_rng(0)
    lost = 0.02
    won = gain + lost * p  # of all problems
    for answers in (1, 4):
        held = []
        for _ in range(1000):
            right = rng.random((n, answers)) < p
            after = np.where(right, rng.random(right.shape) >= lost, rng.random(right.shape) < won / (1 - p))
            found = paired(after.mean(1), right.mean(1))
            held.append(found.low <= gain <= found.high)
        assert np.mean(held) >= 0.94


def test_a_record_leaves_out_an_interval_that_is_not_known():
    assert record(Estimate(0.5, None, None, 1), data="d", metric="m") == {
        "data": "d", "metric": "m", "value": 0.5, "n": 1,
    }  # fmt: skip
    full = record(Estimate(0.5, 0.4, 0.6, 9), data="d", metric="m")
    assert full == {"data": "d", "metric": "m", "value": 0.5, "n": 9, "low": 0.4, "high": 0.6}
    assert in_brackets(full) == " [0.400, 0.600]"
    assert in_brackets({"low": -1e-9, "high": -0.0}) == " [0.000, 0.000]", "no minus before zero"
    assert in_brackets({"value": 0.5}) == in_brackets({"low": None, "high": None}) == ""


def test_one_seed_is_said():
    assert over_seeds_text(t_interval([0.4]), bounds=(0, 1)) == "0.400 (one seed)"
    assert over_seeds_text(Estimate(0.9, 0.7, 1.1, 3), bounds=(0, 1)) == "0.900 [0.700, 1.000]"
    assert over_seeds_text(Estimate(0.1, -0.1, 0.3, 3), bounds=(0, 1)) == "0.100 [0.000, 0.300]"
    assert over_seeds_text(Estimate(-3.0, -4.25, -1.75, 3), digits=1) == "-3.0 [-4.2, -1.8]"


# ------------------------------------------------------------------------------------------------------------ runs


def test_runs_are_paired_by_their_seeds():
    """Differences 0.1, 0.2, 0.3: mean 0.2, s = 0.1, t(0.975, 2) = 4.302653: ± 0.248414. Seed 9 has no partner. The runs
    of either arm differ by far more among themselves."""
    found = paired_runs({2: 0.9, 0: 0.2, 1: 0.6, 9: 1.0}, {0: 0.1, 1: 0.4, 2: 0.6})
    assert (found.value, found.n) == (pytest.approx(0.2), 3)
    assert half(found) == pytest.approx(0.248414, abs=1e-6)
    assert half(t_interval([0.2, 0.6, 0.9])) > 3 * half(found)
    assert paired_runs({0: 0.5}, {0: 0.75}) == Estimate(-0.25, None, None, 1)
    with pytest.raises(ValueError, match="no seed is in both"):
        paired_runs({0: 1.0}, {1: 1.0})


def test_interquartile_mean_by_hand():
    """Of 8 values 2 go on each side, whatever their size. Of 3 none goes. Runs and data sets count together."""
    assert interquartile_mean([8.0, 1.0, 7.0, 2.0, 100.0, 4.0, 3.0, -50.0]) == pytest.approx((2 + 3 + 4 + 7) / 4)
    assert interquartile_mean([0.0, 1.0, 5.0]) == 2.0
    assert interquartile_mean([[0.0, 9.0], [1.0, 2.0]]) == 1.5


@pytest.mark.parametrize("shape", [(5, 1), (7, 3), (4, 2), (1, 1)])
def test_both_summaries_of_runs_are_scipys(shape: tuple[int, int]):
    """rliable takes them from scipy: a mean that trims 25 % on each side, and U of Mann and Whitney by the pairs."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4, shape).astype(float), rng.integers(0, 4, (3, shape[1])).astype(float)
    assert interquartile_mean(x) == pytest.approx(trim_mean(x, 0.25, axis=None))
    u = [mannwhitneyu(x[:, m], y[:, m], alternative="greater").statistic for m in range(shape[1])]
    assert probability_of_improvement(x, y) == pytest.approx(np.mean(u) / (shape[0] * 3))


def test_probability_of_improvement_by_hand():
    """First data set: 3 > 1 and 3 > 3 is a tie: 1.5 of 2; 0 above none: 1.5 of 4. Second: both above both. Mean."""
    x, y = [[3.0, 9.0], [0.0, 8.0]], [[1.0, 1.0], [3.0, 2.0]]
    assert probability_of_improvement(x, y) == pytest.approx((1.5 / 4 + 1) / 2)
    assert probability_of_improvement(y, x) == pytest.approx(1 - (1.5 / 4 + 1) / 2)
    assert probability_of_improvement([0.5, 0.5], [0.5]) == 0.5


def test_runs_are_drawn_whole_and_each_arm_by_itself():
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def statistic(x: np.ndarray, y: np.ndarray) -> float:
        seen.append((x, y))
        return float(x.mean() - y.mean())

    found = bootstrap_runs(statistic, [[0.0, 10.0], [1.0, 11.0]], [[5.0, 5.0], [6.0, 6.0], [7.0, 7.0]])
    assert (found.value, found.n) == (5.5 - 6.0, 2)
    assert all((x[:, 1] - x[:, 0] == 10).all() for x, _ in seen), "both values of a run go together"
    assert {x.shape for x, _ in seen} == {(2, 2)}
    assert {y.shape for _, y in seen} == {(3, 2)}
    draws = {(tuple(x[:, 0]), tuple(y[:, 0])) for x, y in seen}
    assert len(draws) == 2**2 * 3**3, "every pair of draws: the arms are drawn apart"


def test_the_interval_of_runs_is_of_percentiles():
    """Of two runs, 0 and 1, the mean of a resample is 0, 1/2 or 1, with 1/4, 1/2 and 1/4."""
    assert bootstrap_runs(interquartile_mean, [0.0, 1.0]) == Estimate(0.5, 0.0, 1.0, 2)
    values = np.random.default_rng(1).normal(size=200)
    found = bootstrap_runs(lambda x: float(x.mean()), values)
    assert half(found) == pytest.approx(Z * values.std() / math.sqrt(200), rel=0.05)
    assert found == bootstrap_runs(lambda x: float(x.mean()), values), "the same draws every time"
    above = bootstrap_runs(probability_of_improvement, [3.0, 4.0, 5.0], [0.0, 1.0, 2.0])
    assert above == Estimate(1.0, None, None, 3), "no resample disagrees: no certainty either"
