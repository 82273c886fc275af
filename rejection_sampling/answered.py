"""The completions of a round: what was sampled for a problem, and what is selected of it.

Axes: b prompts of a round, g completions of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy import ndarray as Array

from rlhf.data.answers import Answer
from rlhf.tasks.problem import Problem, Verdict


@dataclass(frozen=True)
class Answered:
    """A problem with g sampled completions and their rewards."""

    problem: Problem
    prompt: list[int]
    answers: list[Answer]
    verdicts: list[Verdict | None]  # None: there is no reference answer
    reward: list[float]


@dataclass(frozen=True)
class Selected:
    """A completion to learn, as it was sampled: tokens with the end token."""

    question: str
    prompt: list[int]
    tokens: list[int]
    text: str
    reward: float

    def as_sample(self) -> dict[str, Any]:
        """A record of samples.jsonl."""
        return {"prompt": self.question, "completion": self.text, "reward": self.reward, "total": self.reward}


def may_be_selected(answered: Sequence[Answered], *, distinct: bool) -> Bool[Array, "b g"]:
    """All completions but those that were cut at max_new_tokens, which nobody should learn to write; with `distinct`,
    all but the first of equal ones too."""
    ended = np.array([[answer.ended for answer in it.answers] for it in answered])
    return ended & ~repeats(answered) if distinct else ended


def repeats(answered: Sequence[Answered]) -> Bool[Array, "b g"]:
    """True where an earlier completion of the same prompt has the same tokens."""
    tokens = [[answer.tokens for answer in it.answers] for it in answered]
    return np.array([[it in own[:j] for j, it in enumerate(own)] for own in tokens])
