"""Training problems by how often a policy solves them, measured beforehand: `python -m rlhf.evaluate.difficulty`.

A group whose completions are all right or all wrong has no contrast, and teaches nothing. Kept are problems of a
success rate in between, whose rewards vary the most: p (1 - p). (Bae et al., "Online difficulty filtering for reasoning
oriented reinforcement learning", 2025, arXiv 2504.03380, who measure during training; here it is done once.)
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.data.columns import short
from rlhf.data.rows import in_epochs, load_rows
from rlhf.errors import UserError
from rlhf.tasks.problem import Problem, Task, Verdict


@dataclass(frozen=True)
class Measured:
    """A problem of a training stream, and how often it was solved."""

    seed: int  # of the stream
    number: int  # in the stream
    question: str
    success: float  # share of the sampled answers that were right


class ByDifficulty:
    """A task whose training problems are a given few. Has the interface of `rlhf.tasks.problem.Task`.

    Args:
        measured: how many there were to choose from.
        easiest_first: the first pass goes from the easiest problem to the hardest; later ones are shuffled.
    """

    def __init__(self, task: Task, problems: Sequence[tuple[Problem, float]], *, measured: int, easiest_first: bool):
        self.task, self.verifies = task, task.verifies
        self.name = f"{task.name}, {len(problems)} of {measured} problems"
        in_order = sorted(problems, key=lambda pair: -pair[1]) if easiest_first else problems
        self._problems = [problem for problem, _ in in_order]
        self._easiest_first = easiest_first

    @property
    def fingerprint(self) -> str:
        told = [self.task.fingerprint, *(problem.question for problem in self._problems)]
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]

    def train_problems(self, *, seed: int, first: int, count: int) -> list[Problem]:
        in_turn = self._problems[first : first + count] if self._easiest_first else []
        later = in_epochs(self._problems, seed=seed, first=first + len(in_turn), count=count - len(in_turn))
        return [*in_turn, *later]

    def held_out_problems(self, count: int) -> list[Problem]:
        return self.task.held_out_problems(count)

    def verify(self, problem: Problem, completion: str) -> Verdict | None:
        return self.task.verify(problem, completion)


def by_difficulty(task: Task, path: str, *, low: float, high: float, easiest_first: bool) -> ByDifficulty:
    """The task with those of its training problems that were solved at a rate of `low` to `high`.

    Args:
        path: the file of `python -m rlhf.evaluate.difficulty`.

    Raises:
        UserError: the file is of another task, or none of its problems is between the bounds.
    """
    measured = [_measured(where, row) for where, row in load_rows(path)]
    kept = [own for own in measured if low <= own.success <= high]
    if not kept:
        raise UserError(
            f"difficulty: of {len(measured)} problems in '{path}' none was solved at a rate of {low:g} to {high:g}",
            hint="Measure more problems, with more samples of each; or widen difficulty_low and difficulty_high.",
        )
    problems = [(_problem(task, own, path), own.success) for own in kept]
    return ByDifficulty(task, problems, measured=len(measured), easiest_first=easiest_first)


def _measured(where: str, row: Any) -> Measured:
    try:
        return Measured(int(row["seed"]), int(row["number"]), str(row["question"]), float(row["success"]))
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"difficulty: {where}: wanted seed, number, question and success, found {short(row)}",
            hint="uv run python -m rlhf.evaluate.difficulty writes such a file.",
        ) from error


def _problem(task: Task, own: Measured, path: str) -> Problem:
    (problem,) = task.train_problems(seed=own.seed, first=own.number, count=1)
    if problem.question != own.question:
        raise UserError(
            f"difficulty: problem {own.number} of {task.name} is {short(problem.question)}, and in '{path}' "
            f"{short(own.question)}",
            hint="The file was measured on another task or with another task_config: measure this one.",
        )
    return problem
