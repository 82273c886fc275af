"""`--plan`: what a reward model's training would load, before anything is loaded."""

from typing import TYPE_CHECKING

from reward_models.config import RewardModelConfig

if TYPE_CHECKING:
    from rlhf.run.memory_plan import Plan


def plan(title: str, config: RewardModelConfig) -> "Plan":
    from rlhf.run.memory_plan import Plan, memory_needs

    size = f"up to {config.max_steps} steps of {config.batch_size} questions or rankings"
    return Plan(f"{title} on {config.data.path}", size, memory_needs(config, vocabulary=False))
