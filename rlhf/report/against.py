"""How groups of runs stand against one of them: paired by seed, and by how often a run of theirs is better.

Held-out values are those of the last step that all runs of a group were evaluated at. On several data sets, the paired
difference is of each run's mean over them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlhf.errors import UserError
from rlhf.report.over_seeds import SeedGroup
from rlhf.report.runs import Target
from rlhf.statistics import (
    Estimate,
    bootstrap_runs,
    interquartile_mean,
    paired_runs,
    probability_of_improvement,
)

LESS_IS_BETTER = ("loss", "calibration_error")
NEITHER_IS_BETTER = ("length", "kl", "logp", "margin", "length_correlation")  # they say what a run is like


@dataclass(frozen=True)
class Standing:
    """A group of runs against the baseline's; None where it is the baseline, or nothing can be known."""

    label: str
    middle: Estimate  # interquartile mean over runs and data sets
    difference: Estimate | None  # from the baseline, paired by seed
    improvement: Estimate | None  # the probability that a run is better than one of the baseline, if more or less is

    @property
    def cells(self) -> list[str]:
        """Of a row of a table."""
        return [
            self.label,
            _in_words(self.middle),
            _in_words(self.difference, signed=True),
            _in_words(self.improvement),
        ]


LEGEND = (
    "Of the values at the end. Minus: the mean difference over pairs of runs with the same seed, with its 95 % "
    "t-interval. Probability of improvement: how often a run is better than one of the other group, ties counting one "
    "half; of a loss or an error, less is better, and of a length or a KL neither. Its interval and that of the "
    "interquartile mean are of runs drawn anew (Agarwal et al. 2021): rough where they are few."
)


def by_metric(targets: Sequence[Target]) -> dict[str, list[Target]]:
    """The targets of each metric, in their order."""
    metrics: dict[str, list[Target]] = {}
    for target in targets:
        metrics.setdefault(target.metric, []).append(target)
    return metrics


def baseline_of(groups: Sequence[SeedGroup], run: Path | None) -> SeedGroup:
    """The group with this run; without one, the first.

    Raises:
        UserError: none has it.
    """
    if run is None:
        return groups[0]
    for group in groups:
        if any(own.path.resolve() == run.resolve() for own in group.runs):
            return group
    raise UserError(f"--against {run}: not one of the runs that are compared")


def standings(groups: Sequence[SeedGroup], targets: Sequence[Target], baseline: SeedGroup) -> list[Standing]:
    """Of every group that was evaluated on all targets, which are of one metric. None where the baseline was not."""
    values = {group.label: last_values(group, targets) for group in groups}
    least = values[baseline.label]
    if not least:
        return []
    sign = -1.0 if targets[0].metric in LESS_IS_BETTER else 1.0
    found = []
    for label, own in values.items():
        if not own:
            continue
        middle = bootstrap_runs(interquartile_mean, list(own.values()))
        difference = improvement = None
        if label != baseline.label:
            if targets[0].metric not in NEITHER_IS_BETTER:
                improvement = bootstrap_runs(
                    probability_of_improvement,
                    sign * np.array(list(own.values())),
                    sign * np.array(list(least.values())),
                )
            if own.keys() & least.keys():
                difference = paired_runs(
                    *({seed: float(row.mean()) for seed, row in of.items()} for of in (own, least))
                )
        found.append(Standing(label, middle, difference, improvement))
    return found


def last_values(group: SeedGroup, targets: Sequence[Target]) -> dict[str, np.ndarray]:
    """By seed, the values (m) of each run on the m targets at the last step that all runs of the group share; empty
    where one of them was not measured."""
    shared: list[dict[str, float]] = []
    for target in targets:
        curves = [{point.step: point.estimate.value for point in run.evaluation.get(target, ())} for run in group.runs]
        steps = set.intersection(*map(set, curves))
        if not steps:
            return {}
        seeds = [run.path.name if run.seed is None else str(run.seed) for run in group.runs]
        shared.append({seed: curve[max(steps)] for seed, curve in zip(seeds, curves, strict=True)})
    return {seed: np.array([values[seed] for values in shared]) for seed in shared[0]}


def _in_words(estimate: Estimate | None, *, signed: bool = False) -> str:
    """`+0.12 [0.03, 0.21]`; a dash where there is no estimate."""
    if estimate is None:
        return "-"
    value = f"{estimate.value:{'+' if signed else ''}.3f}"
    if estimate.low is None or estimate.high is None:
        return f"{value} ({'one seed' if estimate.n == 1 else 'no interval'})"
    return f"{value} [{estimate.low:{'+' if signed else ''}.3f}, {estimate.high:{'+' if signed else ''}.3f}]"
