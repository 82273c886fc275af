"""Comparisons in words and numbers, as the page, the picture and the index say them."""

import math

from claims.verdicts import Comparison
from rlhf.statistics import Estimate

FROM_SMALL = 1e-3  # smaller numbers have an exponent
ROUNDING = 1e-12  # what is smaller is what rounding leaves of 0


def number(value: float) -> str:
    """Three significant digits, with a true minus sign."""
    if not math.isfinite(value):
        return "–"
    if abs(value) < ROUNDING:
        return "0"
    text = f"{value:.3g}" if abs(value) >= FROM_SMALL else f"{value:.1e}".replace("e-0", "e-")
    return text.replace("e-", "e−").replace("-", "−")


def with_interval(estimate: Estimate) -> str:
    """`0.403 [0.35, 0.45]`; of one seed `0.403`."""
    if estimate.low is None or estimate.high is None:
        return number(estimate.value)
    return f"{number(estimate.value)} [{number(estimate.low)}, {number(estimate.high)}]"


def between(one: Comparison) -> str:
    """What was found, with a sign where it is a difference: `+0.031 [0.01, 0.052]`, `× 0.5 [0.4, 0.6]`."""
    text = with_interval(one.found)
    if one.measure.ratio:
        return f"× {text}"
    return f"+{text}" if one.found.value > ROUNDING else text


def compared(one: Comparison) -> str:
    """`Dr. GRPO − GRPO`, or `/` where the measure is compared by its ratio; against a number, the arm alone."""
    left, right = one.expected.left, one.expected.right
    if isinstance(right, str):
        return f"{left} {'/' if one.measure.ratio else '−'} {right}"
    return left if right == 0 else f"{left} − {number(right)}"


def claimed(one: Comparison) -> str:
    """`< 0`: what the claim says of the difference."""
    equal = "1" if one.measure.ratio else "0"
    if one.expected.sign == "=":
        return f"within {number(one.expected.within)} of {equal}"
    return f"{one.expected.sign} {equal}"
