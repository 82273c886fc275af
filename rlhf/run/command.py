"""What every training command does with its command line: show the settings, show the plan, or train.

What can be seen without PyTorch, which takes seconds to load, is looked at first: the run directory, and whatever the
family's `look` looks at.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from rlhf.config.command import Command, show
from rlhf.config.trainer import TrainerConfig
from rlhf.run.directory import look_at, with_free_directory

if TYPE_CHECKING:  # torch is not loaded for --help
    from rlhf.run.memory_plan import Plan
    from rlhf.run.result import RunResult


def run_command[ConfigT: TrainerConfig](
    command: Command[ConfigT],
    train: "Callable[[Command[ConfigT]], RunResult]",
    plan: "Callable[[ConfigT], Plan]",
    look: Callable[[ConfigT], None],
) -> int:
    """Carry a command out; returns the exit code.

    Args:
        train: makes the run of the command.
        plan: what a run with this config would do and load, for --plan.
        look: looks at what the config names (models, files, tasks), as far as that goes without PyTorch.
    """
    command = with_free_directory(command)
    if command.show_config:
        print(show(command))
        return 0
    if command.plan:  # before the look, which asks the Hub: a plan needs no network
        from rlhf.distributed import is_first_asked
        from rlhf.run.memory_plan import show_plan

        planned = show_plan(command, plan)
        if is_first_asked():
            print(planned)
        return 0
    return make_run(command, train, look).exit_code


def make_run[ConfigT: TrainerConfig](
    command: Command[ConfigT],
    train: "Callable[[Command[ConfigT]], RunResult]",
    look: Callable[[ConfigT], None],
) -> "RunResult":
    """Make the run of a command, of the command line or of a Python program; see `run_command`."""
    look(command.config)
    look_at(command)
    return train(command)
