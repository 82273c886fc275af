"""A rubric: yes/no questions about one answer, weighted. As a judge of pairs, and as reward functions.

    model: smollm2-135m
    rubric:
      steps: Is every step shown?
      number:
        ask: Does the answer end with a number?
        weight: 2

A criterion's value is the probability of "yes" under a model here, or 1 or 0 by an endpoint's reply. The score is the
weighted mean, in [0, 1]. Each criterion is asked by itself, so that none colours another. Gunjal et al., "Rubrics as
Rewards", 2025, arXiv 2507.17746 (explicit aggregation).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rlhf.data.answers import Answer
from rlhf.judges.config import JudgeConfig
from rlhf.judges.judge import Chooser, Pair, open_chooser, sigmoid
from rlhf.judges.templates import WORDS, criterion_question
from rlhf.judges.usage import Usage
from rlhf.text.chat import Message

type PromptedAnswer = tuple[Sequence[Message], Answer | str]  # a prompt with one answer


class Rubric:
    """The criteria of a config, and who answers them: loaded or connected at the first question."""

    def __init__(self, config: JudgeConfig):
        self.config = config

    @cached_property
    def chooser(self) -> Chooser:
        return open_chooser(self.config)

    @property
    def shares(self) -> dict[str, float]:
        """The weight of each criterion; together 1."""
        total = sum(criterion.weight for criterion in self.config.rubric.values())
        return {name: criterion.weight / total for name, criterion in self.config.rubric.items()}

    def values(self, name: str, answered: Sequence[PromptedAnswer]) -> list[float | None]:
        """How far each answer meets one criterion: 0 to 1; None where no verdict came."""
        ask = self.config.rubric[name].ask
        return self.chooser.choose([criterion_question(prompt, answer, ask) for prompt, answer in answered], WORDS)

    def scores(self, answered: Sequence[PromptedAnswer]) -> list[float | None]:
        """The weighted mean of the criteria; None unless each gave a verdict."""
        columns = {name: self.values(name, answered) for name in self.config.rubric}
        rows = zip(*columns.values(), strict=True)
        return [_weighted(self.shares, dict(zip(columns, row, strict=True))) for row in rows]


def _weighted(shares: dict[str, float], values: dict[str, float | None]) -> float | None:
    known = {name: value for name, value in values.items() if value is not None}
    return sum(shares[name] * value for name, value in known.items()) if len(known) == len(values) else None


class RubricJudge:
    """Holds the answer better that has the higher score."""

    sees_order = False

    def __init__(self, config: JudgeConfig):
        self.rubric = Rubric(config)

    def prefer_first(self, pairs: Sequence[Pair]) -> list[float | None]:
        scores = self.rubric.scores([(pair.prompt, answer) for pair in pairs for answer in (pair.first, pair.second)])
        sides = zip(scores[::2], scores[1::2], strict=True)
        return [None if one is None or two is None else sigmoid(one - two) for one, two in sides]

    @property
    def usage(self) -> Usage | None:
        return self.rubric.chooser.usage


# ------------------------------------------------------------------------------------------ as reward functions


@dataclass(frozen=True)
class CriterionReward:
    """One criterion as a reward function of a batch. Where no verdict comes, the criterion counts as not met; the
    rubric's `usage` counts these."""

    rubric: Rubric
    name: str

    def __call__(self, prompts: list[Any], completions: list[Any]) -> list[float]:
        asked = [[{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt for prompt in prompts]
        texts = [said if isinstance(said, str) else said[-1]["content"] for said in completions]
        values = self.rubric.values(self.name, list(zip(asked, texts, strict=True)))
        return [0.0 if value is None else value for value in values]
