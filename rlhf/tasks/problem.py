"""A problem, a verdict on an answer to it, and the interface of every task."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Problem:
    question: str
    answer: str
    entry: Mapping[str, Any] = field(repr=False)  # the entry of reasoning-gym, which its verifier needs


def system_message(text: str | None) -> list[dict[str, str]]:
    """What a conversation begins with: the system prompt, if there is one."""
    return [{"role": "system", "content": text}] if text else []


def messages_for(problem: Problem, system_prompt: str | None) -> list[dict[str, str]]:
    """The conversation that asks for an answer: the system prompt, if there is one, and the question."""
    return [*system_message(system_prompt), {"role": "user", "content": problem.question}]


@dataclass(frozen=True)
class Verdict:
    """The verdict on one completion. Only `exact` means success."""

    exact: float  # 1 if the answer is right, else 0: never partial credit
    format: float  # 1 if the completion has the form that was asked for
    partial: float  # reasoning-gym's score in [0, 1]; some tasks score wrong answers 0.05 or more
    failed: str = ""  # why the verifier gave no verdict ("time out", "ValueError: ..."), which counts as wrong


@runtime_checkable  # for beartype, in tests
class Task(Protocol):
    """A source of problems: numbered training problems, held-out problems, and a verifier of answers."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def train_problems(self, *, seed: int, first: int, count: int) -> list[Problem]: ...

    def held_out_problems(self, count: int) -> list[Problem]: ...

    def verify(self, problem: Problem, completion: str) -> Verdict: ...
