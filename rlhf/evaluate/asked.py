"""What a command line asks to evaluate on, looked at before PyTorch is loaded."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.config.paths import home
from rlhf.config.recorded import read_config
from rlhf.errors import UserError
from rlhf.generate.settings import run_of, tasks_of

if TYPE_CHECKING:
    from rlhf.tasks.problem import Task


@dataclass(frozen=True)
class Asked:
    """A task by its name."""

    name: str
    parameters: Mapping[str, Any]
    whole_file: bool = False  # all prompts of a file are held out

    def open(self, answer_in: str) -> "Task":
        from rlhf.tasks.prompts import open_for_evaluation
        from rlhf.tasks.registry import open_task

        if self.whole_file:
            return open_for_evaluation(self.parameters, answer_in=answer_in)
        return open_task(self.name, self.parameters, answer_in=answer_in)


def tasks_asked(o: argparse.Namespace) -> list[Asked]:
    """The tasks that the command line names, or those of the first run.

    Raises:
        UserError: there is none, or both a task and a file.
    """
    if o.task and o.data:
        raise UserError("--task and --data: one of them", "--data FILE evaluates all prompts of a file.")
    if o.task:
        return [Asked(o.task, o.task_config)]
    if o.data:
        return [Asked("prompts", {**o.task_config, "path": o.data}, whole_file=True)]
    runs = [run for model in o.models if (run := run_of(model))]
    own = next((tasks for run in runs if (tasks := tasks_of(run))), None)
    if own is None:
        raise UserError("--task: what is to be evaluated? No model here is a run with a task of its own")
    return [Asked(name, {**parameters, **o.task_config}) for name, parameters in own.items()]


def look(o: argparse.Namespace, tasks: Sequence[Asked]) -> None:
    """What needs no PyTorch is refused before it is loaded: names, files, and what a run was trained on."""
    from rlhf.data.files import refuse_output
    from rlhf.data.rows import refuse_missing
    from rlhf.models.names import find_folder
    from rlhf.tasks.names import refuse_unknown_task

    if o.data:
        refuse_missing(o.data, key="--data")
    if o.output:
        refuse_output(o.output, reads=o.data or "")
    for task in tasks:
        refuse_unknown_task(task.name, task.parameters)
    if o.reward_model:
        find_folder(o.reward_model, key="reward_model")
    if o.data:
        refuse_trained_on(o.data, o.models)


def refuse_trained_on(data: str, models: Sequence[str]) -> None:
    """Raises: UserError, if a run names the same file, which it was trained on."""
    for run in filter(None, map(run_of, models)):
        config = read_config(run)
        own = [config.get("data"), *tasks_of(run).values()]
        paths = [str(it["path"]) for it in own if isinstance(it, Mapping) and it.get("path")]
        if Path(home(data)).resolve() in [Path(home(path)).resolve() for path in paths]:
            raise UserError(
                f"--data: '{run}' was trained on '{data}'",
                hint="Give prompts that it has not seen; without --data its own held-out ones are taken.",
            )
