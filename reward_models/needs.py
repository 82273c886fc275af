"""`--plan`: what a reward model's training would load, before anything is loaded."""

from reward_models.config import RewardModelConfig
from rlhf.config.command import Command
from rlhf.run.memory_plan import plan, show_plan


def show_needs[ConfigT: RewardModelConfig](command: Command[ConfigT], title: str) -> int:
    config = command.config
    print(
        f"{title} on {config.data.path}, profile {command.profile} ({command.profile_reason}): up to "
        f"{config.max_steps} steps of {config.batch_size} questions or rankings, model {config.model_name}, "
        f"run directory {config.output_dir}"
    )
    print(show_plan(plan(config)))
    return 0
