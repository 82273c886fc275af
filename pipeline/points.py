"""From what was measured to the curves of the picture and the rows of the table.

A curve's point is a checkpoint: d = sqrt(KL(policy || start)), the gold reward, and the proxy reward in units in which
the start's completions have mean 0 and standard deviation 1. Over seeds, points of one step are averaged, and intervals
are over seeds; of one seed they are over problems.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.fits import BEST_OF_N, RL, Coefficients, Form, fit
from rlhf.evaluate.best_of import best_of, kl_of_best_of, powers_of_two
from rlhf.statistics import Estimate, t_interval

type Array = np.ndarray
GOLD, PROXY = "gold", "proxy"


@dataclass(frozen=True)
class Point:
    """One policy of one seed, measured on p problems."""

    step: int  # of training; of best-of-n it is n
    kl: float  # nats
    gold: Array  # (p,)
    proxy: Array  # (p,), in the start's standard deviations above its mean

    @property
    def d(self) -> float:
        return float(np.sqrt(max(self.kl, 0.0)))

    def values(self, reward: str) -> Array:
        return self.gold if reward == GOLD else self.proxy


@dataclass(frozen=True)
class Curve:
    """A line of the picture: for each seed the start and its checkpoints."""

    name: str
    form: Form
    seeds: Mapping[int, Sequence[Point]]

    @property
    def steps(self) -> list[int]:
        """Those that all seeds have."""
        return sorted(set.intersection(*({point.step for point in points} for points in self.seeds.values())))

    def at(self, step: int) -> list[Point]:
        return [point for points in self.seeds.values() for point in points if point.step == step]


def normalized(proxy: Sequence[float], start: Mapping[str, Any]) -> Array:
    """Scores in the start's standard deviations above its mean."""
    of_start = np.array(start["proxy"])
    return (np.array(proxy) - of_start.mean()) / max(of_start.std(), 1e-12)


def trained_point(step: int, measured: Mapping[str, Any], start: Mapping[str, Any]) -> Point:
    proxy = normalized(measured["proxy"], start)
    return Point(step, float(np.mean(measured["kl"])), np.array(measured["gold"]), proxy)


def best_of_points(measured: Mapping[str, Any], start: Mapping[str, Any]) -> list[Point]:
    """Best-of-n for n = 1, 2, 4, ... from m completions of each problem, exactly over subsets of n."""
    gold = np.array(measured["gold"])
    proxy = np.array([normalized(scores, start) for scores in measured["proxy"]])
    points = []
    for n in powers_of_two(gold.shape[1]):
        chosen = [np.array([best_of(p, value, n) for p, value in zip(proxy, of, strict=True)]) for of in (gold, proxy)]
        points.append(Point(n, kl_of_best_of(n), *chosen))
    return points


def over_seeds(curve: Curve, step: int, reward: str) -> Estimate:
    """The mean reward at a step: its interval is over seeds, or, of one seed, over problems."""
    points = curve.at(step)
    if len(points) == 1:
        return t_interval(points[0].values(reward))
    return t_interval([point.values(reward).mean() for point in points])


@dataclass(frozen=True)
class Summary:
    """A row of the table. The peak is that of the gold reward along a curve, and the fall is from there to the end."""

    start: Estimate
    peak: Estimate
    end: Estimate
    fall: Estimate
    proxy_at_peak: Estimate
    proxy_at_end: Estimate
    rise_of_proxy: Estimate  # from the peak of the gold reward to the end
    d_at_end: Estimate
    coefficients: dict[str, dict[str, Estimate]]  # of both rewards: a and b

    def as_json(self) -> dict[str, Any]:
        plain = {name: value._asdict() for name, value in vars(self).items() if isinstance(value, Estimate)}
        fitted = {r: {c: e._asdict() for c, e in both.items()} for r, both in self.coefficients.items()}
        return plain | {"coefficients": fitted}


def summarize(curve: Curve) -> Summary:
    starts = [points[0] for points in curve.seeds.values()]
    ends = [points[-1] for points in curve.seeds.values()]
    peaks = [peak(points) for points in curve.seeds.values()]
    return Summary(
        start=_mean([point.gold for point in starts]),
        peak=_mean([gold for gold, _ in peaks]),
        end=_mean([point.gold for point in ends]),
        fall=_mean([gold - end.gold for (gold, _), end in zip(peaks, ends, strict=True)]),
        proxy_at_peak=_mean([proxy for _, proxy in peaks]),
        proxy_at_end=_mean([point.proxy for point in ends]),
        rise_of_proxy=_mean([end.proxy - proxy for (_, proxy), end in zip(peaks, ends, strict=True)]),
        d_at_end=t_interval([point.d for point in ends]),
        coefficients={reward: coefficients(curve, reward) for reward in (GOLD, PROXY)},
    )


def peak(points: Sequence[Point]) -> tuple[Array, Array]:
    """Gold and proxy reward of each problem at the step where the gold reward is highest.

    The highest of noisy means is too high, so each half of the problems is read at the step that the other half finds.
    """
    gold = np.array([point.gold for point in points])  # (steps, p)
    proxy = np.array([point.proxy for point in points])
    even = np.arange(gold.shape[1]) % 2 == 0
    step = np.where(even, gold[:, ~even].mean(1).argmax(), gold[:, even].mean(1).argmax())
    at = np.arange(gold.shape[1])
    return gold[step, at], proxy[step, at]


def coefficients(curve: Curve, reward: str) -> dict[str, Estimate]:
    """a and b of the curve's form, fitted to each seed by itself, with intervals over seeds; none where none exists."""
    found = [fitted for points in curve.seeds.values() if (fitted := fit_points(curve.form, points, reward))]
    return {name: t_interval([getattr(one, name) for one in found]) for name in Coefficients._fields} if found else {}


def fit_points(form: Form, points: Sequence[Point], reward: str) -> Coefficients | None:
    means = np.array([point.values(reward).mean() for point in points])
    return fit(form, np.array([point.d for point in points]), means - means[0])


def form_of(trainer: str) -> Form:
    return BEST_OF_N if trainer == "best_of_n" else RL


def _mean(of_problems: Sequence[Array]) -> Estimate:
    """Of values by problem, an array a seed."""
    return t_interval(of_problems[0] if len(of_problems) == 1 else [values.mean() for values in of_problems])
