"""Several tasks in one training stream, each with its share. Speaks as `rlhf.tasks.Task` does."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any, Protocol, runtime_checkable

from rlhf.tasks import Problem, Task, Verdict
from rlhf.word_problems import NAME as WORD_PROBLEMS
from rlhf.word_problems import WordProblems

OF_TASK = "task of the mixture"


@runtime_checkable  # beartype asks for it in tests
class Questions(Protocol):
    """What can be asked: problems by number to train on, held-out problems, and a verdict on an answer."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def train_problems(self, *, seed: int, first: int, count: int) -> list[Problem]: ...

    def held_out_problems(self, count: int) -> list[Problem]: ...

    def verify(self, problem: Problem, completion: str) -> Verdict: ...


def open_task(name: str, parameters: Mapping[str, Any], *, answer_in: str) -> Questions:
    """A task by name: of reasoning-gym, step_arithmetic, or word_problems from a file."""
    if name == WORD_PROBLEMS:
        return WordProblems(dict(parameters), answer_in=answer_in)
    return Task(name, parameters, answer_in=answer_in)


class Mixture:
    """Problem number i is of a task drawn by (seed, i) in proportion to the weights, at that task's own number i."""

    def __init__(self, tasks: Mapping[str, Questions], weights: Mapping[str, float]):
        self.tasks, self.weights = tasks, weights
        self.name = " + ".join(tasks)

    @property
    def fingerprint(self) -> str:
        parts = [(name, self.weights[name], task.fingerprint) for name, task in self.tasks.items()]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def train_problems(self, *, seed: int, first: int, count: int) -> list[Problem]:
        problems = []
        for number in range(first, first + count):
            (name,) = Random(f"{seed} {number}").choices(list(self.tasks), list(self.weights.values()))
            (problem,) = self.tasks[name].train_problems(seed=seed, first=number, count=1)
            problems.append(replace(problem, entry={**problem.entry, OF_TASK: name}))
        return problems

    def held_out_problems(self, count: int) -> list[Problem]:
        """`count` of each task."""
        return [
            replace(problem, entry={**problem.entry, OF_TASK: name})
            for name, task in self.tasks.items()
            for problem in task.held_out_problems(count)
        ]

    def verify(self, problem: Problem, completion: str) -> Verdict:
        return self.tasks[problem.entry[OF_TASK]].verify(problem, completion)
