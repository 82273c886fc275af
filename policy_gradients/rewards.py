"""Completions to rewards. The parts are kept apart, so that a policy that games one of them can be seen doing it."""

from collections.abc import Sequence

from policy_gradients.config import RewardWeights
from rlhf.tasks import Problem, Task, Verdict


def judge(task: Task, problems: Sequence[Problem], texts: Sequence[Sequence[str]]) -> list[list[Verdict]]:
    """The verdict on each completion of each problem."""
    return [[task.verify(p, text) for text in completions] for p, completions in zip(problems, texts, strict=True)]


def weigh(verdict: Verdict, weights: RewardWeights) -> float:
    return weights.exact * verdict.exact + weights.format * verdict.format + weights.partial * verdict.partial
