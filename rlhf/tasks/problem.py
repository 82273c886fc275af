"""A problem, a verdict on an answer to it, and the interface of every task."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from rlhf.errors import UserError

Message = Mapping[str, Any]  # that of `rlhf.text.chat`, which takes seconds to import


HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class Problem:
    """What is asked, and what is known of the answer."""

    question: str  # two problems are the same where it is: of a conversation, all of its text
    answer: str  # "" where there is none
    entry: Mapping[str, Any] = field(repr=False)  # the entry of reasoning-gym, which its verifier needs
    prompt: tuple[Message, ...] = ()  # the conversation that asks, where it is more than the question of a user
    columns: Mapping[str, Any] = field(default_factory=dict, repr=False)  # of its row, for reward functions
    where: str = ""  # its row, for messages


def system_message(text: str | None) -> list[Message]:
    """What a conversation begins with: the system prompt, if there is one."""
    return [{"role": "system", "content": text}] if text else []


def with_system(messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
    """The messages behind the system prompt, unless they have one of their own."""
    own = bool(messages) and messages[0]["role"] == "system"
    return [*system_message(None if own else system_prompt), *messages]


def messages_for(problem: Problem, system_prompt: str | None) -> list[Message]:
    """The conversation that asks for an answer: the system prompt, if there is one, and the question."""
    return with_system(problem.prompt or [{"role": "user", "content": problem.question}], system_prompt)


def place_of(question: str) -> float:
    """A number in [0, 1) that depends on the question alone, the same in every run."""
    digest = hashlib.sha256(question.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def is_held_out(question: str) -> bool:
    """Whether a problem belongs to the held-out ones."""
    return place_of(question) < HELD_OUT_SHARE


@dataclass(frozen=True)
class Verdict:
    """The verdict on one completion. Only `exact` means success."""

    exact: float  # 1 if the answer is right, else 0: never partial credit
    format: float  # 1 if the completion has the form that was asked for
    partial: float  # reasoning-gym's score in [0, 1]; some tasks score wrong answers 0.05 or more
    failed: str = ""  # why the verifier gave no verdict ("time out", "ValueError: ..."), which counts as wrong
    # The answer that was read, in the form in which answers are counted for a majority vote; None if there is none.
    answer: str | None = field(default=None, compare=False)


def refuse_unverified(task: "Task", what: str, *, without: str = "") -> None:
    """See that a task can tell right from wrong.

    Args:
        what: needs it.
        without: how to run without that, such as `--length_penalty 0`.

    Raises:
        UserError: it has no reference answers.
    """
    if not task.verifies:
        raise UserError(
            f"task: {task.name} has no reference answers to tell right from wrong, and {what} needs them",
            hint="task_config: give the rows an answer, and match: number, text or math"
            + (f"; or {without}." if without else "."),
        )


@runtime_checkable  # for beartype, in tests
class Task(Protocol):
    """A source of problems: numbered training problems, held-out problems, and a verifier of answers."""

    @property
    def name(self) -> str: ...

    @property
    def verifies(self) -> bool:
        """Whether it can tell right from wrong. Prompts without reference answers cannot: a reward is all they have."""
        ...

    @property
    def fingerprint(self) -> str: ...

    def train_problems(self, *, seed: int, first: int, count: int) -> list[Problem]: ...

    def held_out_problems(self, count: int) -> list[Problem]: ...

    def verify(self, problem: Problem, completion: str) -> Verdict | None:
        """The verdict; None of a problem without a reference answer."""
        ...
