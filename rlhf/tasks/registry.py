"""The front door of all tasks: a task by its name."""

from collections.abc import Mapping
from typing import Any

from rlhf.tasks import prompts
from rlhf.tasks.problem import Task
from rlhf.tasks.procedural import ProceduralTask

WORD_PROBLEMS = "word_problems"  # prompts whose answer is a number


def open_task(name: str, parameters: Mapping[str, Any], *, answer_in: str) -> Task:
    """A task by name: of reasoning-gym, step_arithmetic, or your own prompts."""
    if name == WORD_PROBLEMS:
        return prompts.open_prompts({"match": "number", **parameters}, answer_in=answer_in, name=name)
    if name == prompts.NAME:
        return prompts.open_prompts(parameters, answer_in=answer_in)
    return ProceduralTask(name, parameters, answer_in=answer_in)
