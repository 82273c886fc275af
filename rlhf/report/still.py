"""Metrics that never moved: a chart of them shows nothing, so one line names them, with the reason where it is known.

A metric moved if its values span more than rounding does, by the metric's own scale: `noise` in its description, in its
unit; else what is usual for the unit; else a millionth of its largest value.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from rlhf.report import numbers
from rlhf.report.runs import Run, is_number

NOISE = {"s": 1e-3, "nats": 1e-5}  # of a unit: what a clock, and sums of log-probabilities in fp32, cannot tell apart
RELATIVE = 1e-6


def documented(runs: Iterable[Run], name: str) -> dict[str, Any]:
    """What the first run that describes a metric says of it: description, unit, noise, and why it may stand still."""
    for run in runs:
        metrics = run.provenance.get("metrics")
        about = metrics.get(name) if isinstance(metrics, dict) else None
        if isinstance(about, dict):
            return about
    return {}


def stands_still(runs: Sequence[Run], name: str) -> bool:
    """Whether a metric has one value, but for rounding, at all steps of all runs. One step alone does not tell."""
    series = [run.series(name)[1] for run in runs]
    values = [float(value) for own in series for value in own]
    if max(map(len, series), default=0) < 2:
        return False
    about = documented(runs, name)
    noise = about.get("noise")
    if not is_number(noise):
        noise = max(NOISE.get(str(about.get("unit")), 0.0), RELATIVE * max(map(abs, values)))
    return max(values) - min(values) <= noise


def still_in_words(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """One line that names the metrics which stand still with their value, and the reason of each, said once."""
    if not names:
        return []
    by_reason: dict[str, list[str]] = {}
    for name in names:
        (value, *_) = (float(value) for run in runs for value in run.series(name)[1])
        noise = documented(runs, name).get("noise")
        shown = "0" if is_number(noise) and abs(value) <= noise else numbers.number(value)
        by_reason.setdefault(str(documented(runs, name).get("still") or ""), []).append(f"{name} {shown}")
    plain = ", ".join(by_reason.pop("", []))
    told = [f"{', '.join(members)} ({reason})" for reason, members in by_reason.items()]
    return [f"Never moved, so not drawn: {'; '.join(part for part in [*told, plain] if part)}."]
