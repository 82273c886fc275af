"""Runs laid side by side by what they have spent, sampled tokens or optimizer steps, in place of their steps.

Steps of two runs may cost very different numbers of samples: completions of other lengths, groups that are thrown away,
greedy completions beside. At equal steps the one that samples more has an advantage that its users pay for. And a step
of a run is a batch of rollouts, on which it takes one optimizer step or several.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rlhf.errors import UserError
from rlhf.report.runs import Point, Run
from rlhf.statistics import Estimate

type Budget = Literal["sampled_tokens", "optimizer_steps"]
METRICS: dict[Budget, str] = {"sampled_tokens": "sampler/tokens", "optimizer_steps": "optim/steps"}


@dataclass(frozen=True)
class Spent:
    """What a run has spent by the end of each step, from step 0 on."""

    steps: list[int]
    amounts: list[float]

    def by(self, step: int) -> float:
        return self.amounts[int(np.searchsorted(self.steps, step, side="right")) - 1]

    def before(self, step: int) -> float:
        return self.by(step - 1)


def by_spent(runs: Sequence[Run], what: Budget) -> list[Run]:
    """The runs up to what the one that spent the least did, with tokens or optimizer steps in place of steps.

    All have their held-out values at the same amounts, as many as the most often evaluated run has: between two
    evaluations lies a straight line. Such values have no interval of their own. Metrics end with the step in which the
    amount is spent.

    Raises:
        UserError: a run did not log what it spent, or spent nothing.
    """
    spent = [_spent(run, what) for run in runs]
    end = min(own.amounts[-1] for own in spent)
    marks = max((len(points) for run in runs for points in run.evaluation.values()), default=0)
    at = np.unique(np.linspace(0, end, max(2, marks)).round())
    return [_up_to(run, own, at) for run, own in zip(runs, spent, strict=True)]


def _spent(run: Run, what: Budget) -> Spent:
    steps, amounts = [0], [0.0]
    for row in run.metrics:
        steps.append(row["step"])
        amounts.append(amounts[-1] + (row.get(METRICS[what]) or 0.0))  # 0 where a step learns from an earlier sample
    if not amounts[-1]:
        raise UserError(
            f"{run.path}: no step has {what.replace('_', ' ')}, or says how many ({METRICS[what]})",
            hint="Runs that learn from given data, and those of earlier versions, can be compared by steps.",
        )
    return Spent(steps, amounts)


def _up_to(run: Run, spent: Spent, at: np.ndarray) -> Run:
    evaluation = {}
    for target, points in run.evaluation.items():
        # Of steps between which nothing was spent the last counts: it has learned most from what was.
        curve = {spent.by(step): estimate for step, estimate in points}
        inside = at[at >= min(curve)]
        values = np.interp(inside, list(curve), [estimate.value for estimate in curve.values()]).tolist()
        evaluation[target] = [
            Point(int(amount), Estimate(value, None, None, points[-1].estimate.n))
            for amount, value in zip(inside, values, strict=True)
        ]
    metrics = [row | {"step": int(spent.by(row["step"]))} for row in run.metrics if spent.before(row["step"]) < at[-1]]
    return replace(run, metrics=metrics, evaluation=evaluation)
