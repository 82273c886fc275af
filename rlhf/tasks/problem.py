"""A problem, a verdict on an answer to it, and the interface of every task."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Problem:
    question: str
    answer: str
    entry: Mapping[str, Any] = field(repr=False)  # as reasoning-gym made it; its verifier wants it back


@dataclass(frozen=True)
class Verdict:
    """Of one completion. Kept apart, since each means something else; only `exact` is success."""

    exact: float  # 1 if the answer is right, else 0: never partial credit
    format: float  # 1 if the completion has the form that was asked for
    partial: float  # reasoning-gym's own score in [0, 1]; some tasks give wrong answers 0.05 and more
    failed: str = ""  # why the verifier gave no verdict ("time out", "ValueError: ..."), which counts as wrong


@runtime_checkable  # beartype asks for it in tests
class Task(Protocol):
    """What can be asked: problems by number to train on, held-out problems, and a verdict on an answer."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def train_problems(self, *, seed: int, first: int, count: int) -> list[Problem]: ...

    def held_out_problems(self, count: int) -> list[Problem]: ...

    def verify(self, problem: Problem, completion: str) -> Verdict: ...
