"""Runs laid side by side by the tokens that they sampled, in place of their steps.

Steps of two runs may cost very different numbers of samples: completions of other lengths, groups that are thrown away,
greedy completions beside. At equal steps the one that samples more has an advantage that its users pay for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlhf.errors import UserError
from rlhf.report.runs import Point, Run
from rlhf.statistics import Estimate

SAMPLED = "sampler/tokens"


@dataclass(frozen=True)
class Spent:
    """Tokens that a run has sampled by the end of each step, from step 0 on."""

    steps: list[int]
    tokens: list[float]

    def by(self, step: int) -> float:
        return self.tokens[int(np.searchsorted(self.steps, step, side="right")) - 1]

    def before(self, step: int) -> float:
        return self.by(step - 1)


def by_sampled_tokens(runs: Sequence[Run]) -> list[Run]:
    """The runs up to the tokens that the one with the fewest sampled, with tokens in place of steps.

    All have their held-out values at the same numbers of tokens, as many as the most often evaluated run has: between
    two evaluations lies a straight line. Such values have no interval of their own. Metrics end with the step in which
    the tokens are spent.

    Raises:
        UserError: a run did not log its sampled tokens, or sampled none.
    """
    spent = [_spent(run) for run in runs]
    end = min(own.tokens[-1] for own in spent)
    marks = max((len(points) for run in runs for points in run.evaluation.values()), default=0)
    at = np.linspace(0, end, max(2, marks)).round()
    return [_up_to(run, own, at) for run, own in zip(runs, spent, strict=True)]


def _spent(run: Run) -> Spent:
    steps, tokens = [0], [0.0]
    for row in run.metrics:
        steps.append(row["step"])
        tokens.append(tokens[-1] + (row.get(SAMPLED) or 0.0))  # steps that learn from an earlier sample draw none
    if not tokens[-1]:
        raise UserError(
            f"{run.path}: no step sampled tokens, or says how many ({SAMPLED})",
            hint="Runs that learn from given data, and those of earlier versions, can be compared by steps.",
        )
    return Spent(steps, tokens)


def _up_to(run: Run, spent: Spent, at: np.ndarray) -> Run:
    evaluation = {}
    for target, points in run.evaluation.items():
        # Of steps without samples between them the last counts: it has learned most from what was sampled.
        curve = {spent.by(step): estimate for step, estimate in points}
        inside = at[at >= min(curve)]
        values = np.interp(inside, list(curve), [estimate.value for estimate in curve.values()]).tolist()
        evaluation[target] = [
            Point(int(tokens), Estimate(value, None, None, points[-1].estimate.n))
            for tokens, value in zip(inside, values, strict=True)
        ]
    metrics = [row | {"step": int(spent.by(row["step"]))} for row in run.metrics if spent.before(row["step"]) < at[-1]]
    return replace(run, metrics=metrics, evaluation=evaluation)
