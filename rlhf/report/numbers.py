"""Numbers, intervals, durations and counts as a page shows them."""

import json
from collections.abc import Iterable

from rlhf.report.runs import is_number
from rlhf.statistics import Estimate


def number(value: object) -> str:
    """Three significant digits, with an exponent only below 0.001. Anything that is not a number is shown as text."""
    if isinstance(value, bool) or not is_number(value):
        return "–" if value is None else _briefly(value)
    assert isinstance(value, int | float)
    size = abs(value)
    if value == int(value) and size < 1e15:
        return f"{int(value):,}".replace("-", "−")
    if size >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    text = f"{value:.3g}" if size >= 1e-3 else f"{value:.1e}".replace("e-0", "e-")
    return text.replace("-", "−", 1) if text.startswith("-") else text


LONGEST_VALUE = 200  # characters shown of a value that should have been a number


def _briefly(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else str(value)
    except (ValueError, TypeError, RecursionError):
        text = f"({type(value).__name__})"
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]} …"


def decimals(estimates: Iterable[Estimate | None]) -> int:
    """Digits after the point for a set of estimates: two, or three where the intervals are narrower than 0.02."""
    known = [e for e in estimates if e is not None]
    largest = max((abs(e.value) for e in known), default=0)
    if largest >= 100:
        return 1
    widths = [e.high - e.low for e in known if e.low is not None and e.high is not None]
    return 3 if largest < 0.1 or (widths and min(widths) < 0.02 and largest < 10) else 2


def fixed(value: float | None, digits: int, *, sign: bool = False) -> str:
    return "–" if value is None else f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def interval(estimate: Estimate, digits: int) -> str:
    """`[0.85, 0.91]`, or "" without an interval."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{fixed(estimate.low, digits)}, {fixed(estimate.high, digits)}]"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} min" if minutes < 120 else f"{int(hours)} h {int(minutes % 60)} min"


def magnitude(value: float | None) -> str:
    """A count such as 12.3k or 4.5M tokens."""
    if value is None:
        return "–"
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"
