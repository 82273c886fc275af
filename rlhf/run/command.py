"""What every training command does with its command line: show the settings, show the plan, or train."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from rlhf.config.command import Command, show
from rlhf.config.trainer import TrainerConfig

if TYPE_CHECKING:  # torch is not loaded for --help
    from rlhf.run.memory_plan import Plan


def run_command[ConfigT: TrainerConfig](
    command: Command[ConfigT],
    train: Callable[[Command[ConfigT]], int],
    plan: "Callable[[ConfigT], Plan]",
) -> int:
    """Carry a command out; returns the exit code.

    Args:
        train: trains with the command's config and returns the exit code.
        plan: what a run with this config would do and load, for --plan.
    """
    if command.show_config:
        print(show(command))
        return 0
    if command.plan:
        from rlhf.run.memory_plan import show_plan

        print(show_plan(command, plan(command.config)))
        return 0
    return train(command)
