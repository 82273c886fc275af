"""The names of all tasks, read from the text of the files that define them: to import reasoning-gym takes seconds."""

import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlhf.config.tasks import TasksConfig
from rlhf.data.rows import refuse_missing
from rlhf.errors import UserError, nearest
from rlhf.tasks.prompt_settings import checked

NAME = re.compile(r'^(?:DATASET_)?NAME = "(\w+)"$', re.MULTILINE)
OWN = ("prompts", "word_problems")
HAS_PYCOSAT = find_spec("pycosat") is not None
# Tasks that cannot be had here, and why.
UNAVAILABLE = (
    {} if HAS_PYCOSAT else {"zebra_puzzles": "needs pycosat, which a C compiler has to make: uv pip install pycosat"}
)
UNNAMED = ("composite", "word_problems")  # reasoning-gym's, and prompts under another name: without such a line


@cache
def task_names() -> tuple[str, ...]:
    spec = find_spec("reasoning_gym")
    package = spec.submodule_search_locations if spec else None
    folders = [Path(__file__).parent, *map(Path, package or ())]
    found = {
        name for folder in folders for file in folder.rglob("*.py") for name in NAME.findall(file.read_text("utf-8"))
    }
    return tuple(sorted({*found, *UNNAMED}))


def refuse_unavailable(name: str, *, key: str = "task") -> None:
    """Raises: UserError, if that task cannot be had here."""
    if name in UNAVAILABLE:
        raise UserError(f"{key}: '{name}' {UNAVAILABLE[name]}")


def refuse_unknown_task(name: str, parameters: Mapping[str, Any], *, key: str = "task") -> None:
    """Raises: UserError, if there is no task of that name; or, of your own prompts, no file to read them from."""
    if name in OWN:
        checked(parameters, name)
    refuse_unavailable(name, key=key)
    registered = sys.modules.get("reasoning_gym.factory")  # a program may have registered its own
    if name not in task_names() and name not in getattr(registered, "DATASETS", {}):
        raise UserError(f"{key}: there is no task '{name}': {nearest(name, task_names())}".rstrip(": "))


def look_at_tasks(config: TasksConfig) -> None:
    """Raises: UserError, if there is no task of a name, or a file that its problems are taken from is not there."""
    for task, parameters in config.parameters_of_tasks.items():
        refuse_unknown_task(task, parameters)
    if config.difficulty is not None:
        refuse_missing(config.difficulty, key="difficulty")
