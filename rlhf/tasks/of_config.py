"""The tasks of a config: one, or a mixture."""

from rlhf.config.tasks import TasksConfig
from rlhf.tasks.by_difficulty import by_difficulty
from rlhf.tasks.mixture import Mixture
from rlhf.tasks.problem import Task
from rlhf.tasks.registry import open_task


def open_tasks(config: TasksConfig) -> dict[str, Task]:
    """Every task of the config, by name."""
    given = config.parameters_of_tasks
    return {name: open_task(name, parameters, answer_in=config.answer_in) for name, parameters in given.items()}


def training_task(tasks: dict[str, Task], config: TasksConfig) -> Task:
    """The task that training problems are drawn from: the only one, or those of its problems that are neither too easy
    nor too hard, or the mixture."""
    if config.tasks:
        return Mixture(tasks, {name: share.weight for name, share in config.tasks.items()})
    task = tasks[config.task]
    if config.difficulty is None:
        return task
    return by_difficulty(
        task,
        config.difficulty,
        low=config.difficulty_low,
        high=config.difficulty_high,
        easiest_first=config.curriculum == "easiest_first",
    )
