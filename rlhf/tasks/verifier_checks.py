"""Whether a task's verifier can tell right from wrong, found by asking it.

A verifier that calls anything right trains a policy to say anything. So a task is looked at when it is opened: a few of
its problems, each with answers that are not right, and with its own.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from rlhf.errors import UserError
from rlhf.tasks.numbers import read_number

PROBLEMS = 4
NOT_ANSWERS = ("", "0", "1", "nan", "[]", "None", "junk text")
_LOOKED_AT: dict[str, str] = {}  # by task: why it is unfit, or ""


@runtime_checkable  # beartype asks for it in tests
class Scored(Protocol):
    """A `rlhf.tasks.problem.Task`."""

    @property
    def name(self) -> str: ...

    @property
    def parameters(self) -> Mapping[str, Any]: ...

    def some_problems(self, count: int) -> Sequence[Any]: ...

    def score(self, problem: Any, answer: str) -> tuple[float, str]: ...


def refuse_unfit(task: Scored) -> None:
    """Once for each task and parameters.

    Raises:
        UserError: the task's verifier calls a wrong answer right, or its own answers wrong.
    """
    key = json.dumps([task.name, dict(task.parameters)], sort_keys=True, default=repr)
    if key not in _LOOKED_AT:
        _LOOKED_AT[key] = why_unfit(task, task.some_problems(PROBLEMS))
    if reason := _LOOKED_AT[key]:
        raise UserError(
            f"task: '{task.name}' with {dict(task.parameters)} cannot be trained on: {reason}",
            hint="docs/tasks.md says of each task how it is verified.",
        )


def why_unfit(task: Scored, problems: Sequence[Any]) -> str:
    """The first thing that is wrong with a task's verdicts, or "".

    Constants must never be right. An answer of another problem may be right by chance, where a problem has many right
    answers, but not of most problems. Of the task's own answers, those it has, most must be right.
    """
    if not problems:
        return "it makes no problems"
    for answer in NOT_ANSWERS:
        for problem in problems:
            if differ(answer, problem.answer) and is_right(task, problem, answer):
                return f"its verifier calls {answer!r} right where the answer is {short(problem.answer)}"
    others = list(zip(problems, [*problems[1:], problems[0]], strict=True))
    others = [(one, other.answer) for one, other in others if other.answer and differ(one.answer, other.answer)]
    taken = [(one, answer) for one, answer in others if is_right(task, one, answer)]
    if len(taken) > len(others) / 2:
        one, answer = taken[0]
        return (
            f"its verifier calls {short(answer)}, the answer to another problem, right where it is {short(one.answer)}"
        )
    answered = [problem for problem in problems if problem.answer]
    wrong = [problem for problem in answered if not is_right(task, problem, problem.answer)]
    if len(wrong) > len(answered) / 2:
        _, failed = task.score(wrong[0], wrong[0].answer)
        return f"its verifier calls the task's own answer {short(wrong[0].answer)} wrong" + (failed and f" ({failed})")
    return ""


def is_right(task: Scored, problem: Any, answer: str) -> bool:
    return task.score(problem, answer)[0] == 1.0


def differ(one: str, other: str) -> bool:
    """Whether two answers are clearly different: not in case or blanks alone, nor as numbers that are within 1 %."""
    if "".join(one.split()).casefold() == "".join(other.split()).casefold():
        return False
    a, b = read_number(one), read_number(other)
    return a is None or b is None or abs(a - b) > abs(b) / 100


def short(answer: str) -> str:
    return repr(answer if len(answer) <= 40 else answer[:40] + "...")
