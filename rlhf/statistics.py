"""Numbers with their 95 % intervals.

An interval is over what varies independently: seeds, problems, questions. Pairs or completions of one question are not
independent, so they are one cluster, and clusters are what counts:

    t_interval    a mean                       Student's t with the standard error over clusters
    wilson        a share, or a mean in [0, 1]  Wilson's score interval at the effective number of items
    bootstrap     any statistic                 percentiles over clusters drawn anew
    paired        a difference, of one method   Bonett and Price's, or Student's t over the items' differences
                  from another on the same items
    paired_runs   the same, of runs by seed    Student's t over the seeds' differences
    bootstrap_runs   any statistic of runs     percentiles over runs drawn anew, those of each arm by themselves

Without clusters, each item is one. Where an interval cannot be known there is none (None): one cluster alone says
nothing about the others.

`interquartile_mean` and `probability_of_improvement` summarize the runs of an arm as Agarwal et al. do: "Deep
reinforcement learning at the edge of the statistical precipice", 2021, arXiv 2108.13264, whose library is rliable.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

type Array = np.ndarray
Z = 1.959963984540054  # the standard normal's 97.5 % quantile
RESAMPLES = 1000


class Estimate(NamedTuple):
    """A number with its 95 % interval, and how many items (or, over seeds, runs) it comes from."""

    value: float
    low: float | None
    high: float | None
    n: int | None


def t_interval(values: ArrayLike, cluster: ArrayLike | None = None) -> Estimate:
    """A mean with its interval: mean ± t(0.975, k-1) · se, over k clusters.

    se² = k/(k-1) Σ_c (Σ_{i in c} (x_i - mean))² / n², which is s²/n where each item is its own cluster (Cochran, 1977,
    "Sampling Techniques", section 9A.3; Liang and Zeger, 1986). Of one cluster the interval is None.
    """
    x, number, k = _clusters(values, cluster)
    mean = float(x.mean())
    if k < 2:
        return Estimate(mean, None, None, len(x))
    from scipy.special import stdtrit  # here, because it takes half a second that --help should not wait for

    half = float(stdtrit(k - 1, 0.975)) * math.sqrt(k / (k - 1) * _variance(x, number))
    return Estimate(mean, mean - half, mean + half, len(x))


def wilson(values: ArrayLike, cluster: ArrayLike | None = None) -> Estimate:
    """A share of yes (1) and no (0), or a mean of values in [0, 1] such as ties of one half, with its interval.

    Wilson's interval (1927) stays within [0, 1] and is honest at 0 and 1, where a bootstrap has no width. Items in
    clusters count as the number of independent ones that would have the same variance, p (1 - p) / se² (Kish, 1965;
    Korn and Graubard, 1998); where nothing varies, each cluster counts once.
    """
    x, number, k = _clusters(values, cluster)
    p, variance = float(x.mean()), _variance(x, number)
    independent = min(p * (1 - p) / variance, len(x)) if variance > 0 and 0 < p < 1 else k
    return wilson_of(p, independent)._replace(n=len(x))


def wilson_of(share: float, n: float) -> Estimate:
    """Wilson's interval of a share of `n` independent items.

    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n). E. B. Wilson, "Probable inference, the law of succession, and
    statistical inference", 1927.
    """
    middle = share + Z**2 / (2 * n)
    half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    low, high = ((middle + sign * half) / (1 + Z**2 / n) for sign in (-1, 1))
    return Estimate(share, min(max(0.0, low), share), max(min(1.0, high), share), round(n))  # rounding alone


def paired(after: ArrayLike, before: ArrayLike) -> Estimate:
    """The mean of `after - before` over independent items that both were measured on, with its interval.

    Of values in [0, 1], Bonett and Price's (2012, "Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data"): one item more is counted in which the one is better by 1, and one in which the
    other is. So the interval has a width also where all items agree, which Student's has not. Of any other values,
    Student's over the differences.
    """
    a, b = np.asarray(after, dtype=float), np.asarray(before, dtype=float)
    difference = a - b
    if min(a.min(), b.min()) < 0 or max(a.max(), b.max()) > 1:
        return t_interval(difference)
    n, value = len(difference) + 2, float(difference.mean())
    middle = float(difference.sum()) / n
    half = Z * math.sqrt((float((difference**2).sum() + 2) / n - middle**2) / n)
    return Estimate(value, max(-1.0, min(middle - half, value)), min(1.0, max(middle + half, value)), len(difference))


def paired_runs(after: Mapping[Any, float], before: Mapping[Any, float]) -> Estimate:
    """The mean of `after - before` over the seeds that both have, with Student's interval over these differences.

    What the runs of a seed have in common (the order of the prompts, the random numbers of the samples) is in both and
    falls out of the difference. `n` is the number of pairs.

    >>> round(paired_runs({0: 0.5, 1: 0.7, 2: 0.9}, {0: 0.4, 1: 0.5}).value, 2)
    0.15

    Raises:
        ValueError: they share no seed.
    """
    shared = sorted(after.keys() & before.keys())
    if not shared:
        raise ValueError("no seed is in both")
    return t_interval([after[seed] - before[seed] for seed in shared])


def interquartile_mean(values: ArrayLike) -> float:
    """The mean of the values without their lowest and their highest quarter, all runs and data sets together.

    One run moves it less than it moves the mean, and it looks at more runs than the median does. Of n values
    floor(n / 4) are cut off on each side: of 3 none. Agarwal et al. 2021, section 4.

    >>> interquartile_mean([0.0, 0.5, 0.7, 9.0])
    0.6
    """
    ordered = np.sort(np.asarray(values, dtype=float), axis=None)
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """P(X > Y): how often a run of X is above a run of Y, ties counting one half; the mean over the data sets.

    P(X_m > Y_m) = 1/(n k) sum_i sum_j S(x_im, y_jm), S = 1, 1/2 or 0: the statistic of Mann and Whitney. Agarwal et al.
    2021, section 4. It says how often, and not by how much.

    Args:
        x: (n, m), of n runs on m data sets; (n,) of one data set.
        y: (k, m) or (k,).

    >>> probability_of_improvement([3.0, 1.0], [1.0, 0.0])
    0.875
    """
    x, y = (np.asarray(values, dtype=float) for values in (x, y))
    above = x[:, None] - y[None]  # (n, k, ...)
    return float((np.sign(above) + 1).mean() / 2)


def bootstrap_runs(statistic: Callable[..., float], *arms: ArrayLike) -> Estimate:
    """`statistic(*arms)` with its percentile interval over runs drawn anew, those of each arm by themselves.

    A run that was judged on several data sets is drawn with all its values, which are of one training. (The stratified
    bootstrap of Agarwal et al. draws anew for every task, since each task has runs of its own; on one data set the two
    are the same.) Where all resamples agree, as of three runs that are all above three others, they know no interval.

    Args:
        arms: of each (n, m), n runs on m data sets, or (n,); their numbers of runs may differ.

    Returns:
        The statistic; its `n` is the number of runs of the first arm.
    """
    runs = [np.asarray(arm, dtype=float) for arm in arms]
    value, n = float(statistic(*runs)), len(runs[0])
    rng = np.random.default_rng(0)
    draws = ([own[rng.integers(len(own), size=len(own))] for own in runs] for _ in range(RESAMPLES))
    values = np.array([statistic(*drawn) for drawn in draws])
    if np.ptp(values) == 0:
        return Estimate(value, None, None, n)
    low, high = np.quantile(values, [0.025, 0.975])
    return Estimate(value, min(float(low), value), max(float(high), value), n)


def bootstrap(statistic: Callable[[Array], float], cluster: ArrayLike) -> Estimate:
    """`statistic(indices of items)` with its percentile interval over clusters drawn anew, the same draws every time.

    Cluster bootstrap; Efron and Tibshirani, 1993, chapters 8 and 13. Resamples in which the statistic does not exist
    (nan) are left out. Where all the others agree, resampling knows no interval: None.
    """
    cluster = np.asarray(cluster)
    items = [np.flatnonzero(cluster == c) for c in np.unique(cluster)]
    value = float(statistic(np.arange(len(cluster))))
    rng = np.random.default_rng(0)
    drawn = (np.concatenate([items[i] for i in rng.integers(len(items), size=len(items))]) for _ in range(RESAMPLES))
    values = np.array([statistic(indices) for indices in drawn]) if len(items) > 1 else np.array([])
    values = values[np.isfinite(values)]
    if not len(values) or np.ptp(values) == 0:
        return Estimate(value, None, None, len(cluster))
    low, high = np.quantile(values, [0.025, 0.975])
    # A percentile interval of a statistic at its bound may leave the value itself out by rounding.
    return Estimate(value, min(float(low), value), max(float(high), value), len(cluster))


def record(estimate: Estimate, *, data: str, metric: str) -> dict[str, Any]:
    """As eval.jsonl has it, less the step; without `low` and `high` where there is no interval."""
    interval = {} if estimate.low is None else {"low": estimate.low, "high": estimate.high}
    return {"data": data, "metric": metric, "value": estimate.value, "n": estimate.n, **interval}


def in_brackets(known: Mapping[str, Any]) -> str:
    """The interval of an eval.jsonl record as text, with a blank before it; nothing where there is none."""
    return f" [{known['low']:z.3f}, {known['high']:z.3f}]" if known.get("low") is not None else ""


def over_seeds_text(estimate: Estimate, *, digits: int = 3, bounds: tuple[float, float] = (-math.inf, math.inf)) -> str:
    """`0.40 [0.35, 0.45]`, the interval cut at what is possible; of one run `0.40 (one seed)`."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.{digits}f} (one seed)"
    low, high = max(bounds[0], estimate.low), min(bounds[1], estimate.high)
    return f"{estimate.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _clusters(values: ArrayLike, cluster: ArrayLike | None) -> tuple[Array, Array, int]:
    """(values, number of each one's cluster from 0, how many clusters)."""
    x = np.asarray(values, dtype=float)
    if cluster is None:
        return x, np.arange(len(x)), len(x)
    names, number = np.unique(np.asarray(cluster), return_inverse=True)
    if len(number) != len(x):
        raise ValueError(f"{len(x)} values and {len(number)} clusters")
    return x, number, len(names)


def _variance(x: Array, number: Array) -> float:
    """Of the mean, over clusters, before the factor k/(k-1)."""
    return float((np.bincount(number, weights=x - x.mean()) ** 2).sum()) / len(x) ** 2
