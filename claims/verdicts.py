"""Whether what a claim expects is seen: the difference of two arms over seeds, paired by seed, with its interval.

    seen        the 95 % interval lies on the side that is claimed
    opposite    it lies on the other side
    not seen    it holds both
    one seed    there is no interval, so nothing can be said

"=" is seen where the interval lies within `within` of equal, and opposite where it lies outside. An interval of 95 % is
on either side of 0 by chance in 2.5 % of the cases in which there is nothing to see.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from claims.claim import Curve, Expect, Measure
from rlhf.statistics import Estimate, paired_runs, t_interval

type Verdict = Literal["seen", "not seen", "opposite", "one seed"]


@dataclass(frozen=True)
class Comparison:
    """An expectation, what was found, and whether that is it."""

    expected: Expect
    measure: Measure
    found: Estimate  # the difference left - right, or the ratio left / right
    verdict: Verdict


def compare(expected: Expect, measure: Measure, left: Sequence[float], right: Sequence[float]) -> Comparison:
    """Compare two arms.

    Args:
        left, right: by seed, in the same order. Seeds in which one of them has no number (nan) are left out.
    """
    a, b = _known(left), _known(right)
    if not a.keys() & b.keys():
        return Comparison(expected, measure, Estimate(math.nan, None, None, 0), "one seed")
    found = _ratio(a, b) if measure.ratio else paired_runs(a, b)
    return Comparison(expected, measure, found, _verdict(expected, found, equal=1.0 if measure.ratio else 0.0))


def over_seeds(measure: Measure | Curve, values: Sequence[float]) -> Estimate | None:
    """An arm's mean over the seeds that have a number, geometric where arms are compared by their ratio; None: no seed
    has one."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return None
    mean = _exp(t_interval([math.log(value) for value in known])) if measure.ratio else t_interval(known)
    return within(measure.bounds, mean)


def within(bounds: tuple[float, float], estimate: Estimate) -> Estimate:
    """An estimate whose interval is cut at what is possible."""
    if estimate.low is None or estimate.high is None:
        return estimate
    return estimate._replace(low=max(bounds[0], estimate.low), high=min(bounds[1], estimate.high))


def _known(values: Sequence[float]) -> dict[int, float]:
    return {seed: value for seed, value in enumerate(values) if math.isfinite(value)}


def _ratio(a: Mapping[int, float], b: Mapping[int, float]) -> Estimate:
    """The geometric mean of a / b: the interval is that of the mean logarithm."""
    of_logs = paired_runs(*({seed: math.log(value) for seed, value in one.items()} for one in (a, b)))
    return _exp(of_logs)


def _exp(of_logs: Estimate) -> Estimate:
    value, low, high, n = of_logs
    return Estimate(
        math.exp(value), None if low is None else math.exp(low), None if high is None else math.exp(high), n
    )


def _verdict(expected: Expect, found: Estimate, *, equal: float) -> Verdict:
    if found.low is None or found.high is None:
        return "one seed"
    low, high = found.low - equal, found.high - equal
    if expected.sign == "=":
        inside = -expected.within <= low and high <= expected.within
        outside = high < -expected.within or low > expected.within
        return "seen" if inside else "opposite" if outside else "not seen"
    below, above = high < 0, low > 0
    claimed, other = (below, above) if expected.sign == "<" else (above, below)
    return "seen" if claimed else "opposite" if other else "not seen"


def overall(comparisons: Sequence[Comparison]) -> str:
    """The verdict of a claim: that of its comparisons, or how many have which."""
    counts = Counter(one.verdict for one in comparisons)
    if len(counts) == 1:
        return next(iter(counts))
    order = ("seen", "not seen", "opposite", "one seed")
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in order if counts[verdict])
