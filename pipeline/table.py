"""The table: gold reward at the start, at its peak and at the end, the proxy, and the coefficients of the fits."""

from collections.abc import Mapping, Sequence

from pipeline.points import GOLD, PROXY, Curve, Summary
from rlhf.statistics import Estimate

HEAD = ["", "gold: start", "peak", "end", "fall", "proxy: at gold's peak", "end", "rise", "sqrt(KL) at the end"]
FITS = ["", "form", "gold: a", "b", "proxy: a", "b"]


def table(curves: Sequence[Curve], summaries: Mapping[str, Summary]) -> str:
    """Two tables as Markdown: rewards, and coefficients."""
    rewards, fits = [], []
    for curve in curves:
        s = summaries[curve.name]
        estimates = (s.start, s.peak, s.end, s.fall, s.proxy_at_peak, s.proxy_at_end, s.rise_of_proxy, s.d_at_end)
        rewards.append([curve.name, *map(text, estimates)])
        fitted = [s.coefficients[reward].get(name) for reward in (GOLD, PROXY) for name in ("a", "b")]
        fits.append([curve.name, curve.form.text, *("–" if one is None else text(one) for one in fitted)])
    return f"{_markdown(HEAD, rewards)}\n{_markdown(FITS, fits)}"


def text(estimate: Estimate) -> str:
    """`0.40 [0.35, 0.45]`; without an interval where there is none."""
    interval = "" if estimate.low is None else f" [{estimate.low:z.2f}, {estimate.high:z.2f}]"
    return f"{estimate.value:z.2f}{interval}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
