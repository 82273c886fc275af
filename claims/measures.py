"""Numbers of a run directory, as a claim's measures and curves take them. Light: files alone are read.

`last("policy/entropy")` is a function of a run directory, so that a claim is a table of such functions.
"""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

from rlhf.report.over_seeds import area_under
from rlhf.report.runs import Run, read_run

type OfRun = Callable[[Path], float]
type Points = list[tuple[float, float]]

_read = cache(read_run)  # a claim reads a run once for each measure


def last(metric: str, *, steps: int = 1) -> OfRun:
    """The mean of a training metric over the last `steps` steps; nan where it was not logged."""

    def found(path: Path) -> float:
        _, values = _read(path).series(metric)
        return float(values[-steps:].mean()) if len(values) else math.nan

    return found


def mean(metric: str) -> OfRun:
    """The mean of a training metric over all steps; nan where it was not logged."""
    return last(metric, steps=0)  # values[-0:] are all


def held_out(metric: str = "accuracy", data: str = "") -> OfRun:
    """A held-out metric after training. `data`: a part of the data set's name, where a run has several."""

    def found(path: Path) -> float:
        return _curve(_read(path), metric, data)[-1][1]

    return found


def height(metric: str = "accuracy", data: str = "") -> OfRun:
    """The mean height of a held-out curve over training: its area by its length."""

    def found(path: Path) -> float:
        points = _curve(_read(path), metric, data)
        area = area_under(points, points[-1][0])
        return math.nan if area is None else area

    return found


def series(metric: str, *, mean_of: int = 1) -> Callable[[Path], Points]:
    """A training metric along a run, as points of a curve; each the mean of so many steps."""

    def found(path: Path) -> Points:
        steps, values = _read(path).series(metric)
        whole = len(values) // mean_of * mean_of
        return [
            (float(steps[i + mean_of - 1]), float(values[i : i + mean_of].mean())) for i in range(0, whole, mean_of)
        ]

    return found


def held_out_series(metric: str = "accuracy", data: str = "") -> Callable[[Path], Points]:
    """A held-out metric along a run, as points of a curve."""
    return lambda path: _curve(_read(path), metric, data)


def _curve(run: Run, metric: str, data: str) -> Points:
    for target, points in run.evaluation.items():
        if target.metric == metric and data in target.data:
            return [(float(point.step), point.estimate.value) for point in points]
    raise ValueError(f"{run.path}: no held-out {metric} on {data or 'anything'}")
