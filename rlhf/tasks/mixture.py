"""Several tasks in one training stream, each with its weight. Has the interface of `rlhf.tasks.problem.Task`."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from random import Random

from rlhf.tasks.problem import Problem, Task, Verdict

OF_TASK = "task of the mixture"


class Mixture:
    """Problem number i is of a task drawn by (seed, i) in proportion to the weights, at that task's own number i."""

    def __init__(self, tasks: Mapping[str, Task], weights: Mapping[str, float]):
        self.tasks, self.weights = tasks, weights
        self.name = " + ".join(tasks)

    @property
    def verifies(self) -> bool:
        """Whether any of them can tell right from wrong."""
        return any(task.verifies for task in self.tasks.values())

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

    def verify(self, problem: Problem, completion: str) -> Verdict | None:
        return self.tasks[problem.entry[OF_TASK]].verify(problem, completion)
