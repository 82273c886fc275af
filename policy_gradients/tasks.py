"""The tasks of a config: one, or a mixture."""

from policy_gradients.config import PolicyGradientConfig
from rlhf.tasks.mixture import Mixture
from rlhf.tasks.problem import Task
from rlhf.tasks.registry import open_task


def open_tasks(config: PolicyGradientConfig) -> dict[str, Task]:
    """Every task of the config, by name."""
    parameters = {config.task: config.task_config}
    if config.tasks:
        parameters = {name: share.config for name, share in config.tasks.items()}
    return {name: open_task(name, given, answer_in=config.answer_in) for name, given in parameters.items()}


def training_task(tasks: dict[str, Task], config: PolicyGradientConfig) -> Task:
    """The task that training problems are drawn from: the only one, or the mixture."""
    if config.tasks:
        return Mixture(tasks, {name: share.weight for name, share in config.tasks.items()})
    return tasks[config.task]
