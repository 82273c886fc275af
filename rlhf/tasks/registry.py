"""The front door of all tasks: a task by its name."""

from collections.abc import Mapping
from typing import Any

from rlhf.tasks.problem import Task
from rlhf.tasks.procedural import ProceduralTask
from rlhf.tasks.word_problems import NAME as WORD_PROBLEMS
from rlhf.tasks.word_problems import WordProblems


def open_task(name: str, parameters: Mapping[str, Any], *, answer_in: str) -> Task:
    """A task by name: of reasoning-gym, step_arithmetic, or word_problems from a file."""
    if name == WORD_PROBLEMS:
        return WordProblems(dict(parameters), answer_in=answer_in)
    return ProceduralTask(name, parameters, answer_in=answer_in)
