"""What every judge can do: tell the better of two answers; and both orders of a pair, averaged.

Judges favour a place: many choose the first answer whatever it says (Zheng et al., "Judging LLM-as-a-Judge with
MT-Bench and Chatbot Arena", 2023, arXiv 2306.05685, section 3.3). Asked in both orders, with the mean taken, no place
has an advantage: p = (P(first better | shown first) + P(first better | shown second)) / 2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rlhf.data.answers import Answer
from rlhf.judges.config import JudgeConfig
from rlhf.judges.templates import LETTERS, pair_question
from rlhf.judges.usage import Usage
from rlhf.text.chat import Message


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt, in the order that a judge sees them in."""

    prompt: Sequence[Message]
    first: Answer | str
    second: Answer | str

    @property
    def swapped(self) -> "Pair":
        return Pair(self.prompt, self.second, self.first)


@runtime_checkable  # for beartype, in tests
class Judge(Protocol):
    """Tells the better of two answers."""

    sees_order: bool  # False: each answer is judged alone, so the order of a pair cannot matter

    def prefer_first(self, pairs: Sequence[Pair]) -> list[float | None]:
        """The probability that the first answer of each pair is better; None where no verdict came."""
        ...

    @property
    def usage(self) -> Usage | None:
        """What judging has cost so far; None of a model that is loaded here."""
        ...


@runtime_checkable
class Chooser(Protocol):
    """Answers questions with one of two words."""

    def choose(self, questions: Sequence[str], choices: tuple[str, str]) -> list[float | None]:
        """The probability of the first choice against the second; None where neither came."""
        ...

    @property
    def usage(self) -> Usage | None: ...


@dataclass(frozen=True)
class Comparison:
    """P(the first answer of a pair is better), as judged in both orders; None where no verdict came."""

    shown_first: float | None
    shown_second: float | None

    @property
    def mean(self) -> float | None:
        """The mean of both orders; None unless both gave a verdict."""
        if self.shown_first is None or self.shown_second is None:
            return None
        return (self.shown_first + self.shown_second) / 2


def compare(judge: Judge, pairs: Sequence[Pair]) -> list[Comparison]:
    """Each pair judged in both orders."""
    as_given = judge.prefer_first(pairs)
    if not judge.sees_order:
        return [Comparison(p, p) for p in as_given]
    swapped = judge.prefer_first([pair.swapped for pair in pairs])
    return [Comparison(p, None if q is None else 1 - q) for p, q in zip(as_given, swapped, strict=True)]


class PairJudge:
    """Shows both answers and asks which is better."""

    sees_order = True

    def __init__(self, chooser: Chooser, ask: str):
        self.chooser = chooser
        self.ask = ask

    def prefer_first(self, pairs: Sequence[Pair]) -> list[float | None]:
        questions = [pair_question(pair.prompt, pair.first, pair.second, self.ask) for pair in pairs]
        return self.chooser.choose(questions, LETTERS)

    @property
    def usage(self) -> Usage | None:
        return self.chooser.usage


def sigmoid(difference: float) -> float:
    """Bradley and Terry's P(first better) of a difference of scores; without overflow.

    >>> sigmoid(0.0), sigmoid(-1000.0)
    (0.5, 0.0)
    """
    return 0.5 * (1 + math.tanh(difference / 2))


def open_chooser(config: JudgeConfig) -> Chooser:
    """The model here, or the endpoint, that answers questions."""
    if config.url is not None:
        from rlhf.judges.endpoint import Endpoint

        return Endpoint(config)
    from rlhf.judges.local import LocalModel

    return LocalModel(config.model, device=config.device)


def open_judge(config: JudgeConfig) -> Judge:
    """The judge that the settings describe.

    Raises:
        UserError: the model cannot be loaded, or the endpoint does not answer.
    """
    if config.rubric:
        from rlhf.judges.rubric import RubricJudge

        return RubricJudge(config)
    if config.by == "verdict":
        return PairJudge(open_chooser(config), config.ask)
    from rlhf.judges.local import LikelihoodJudge, LocalModel

    return LikelihoodJudge(LocalModel(config.model, device=config.device), config.by)
