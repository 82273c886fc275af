"""The config keys of trainers whose prompts are problems of one task or of several."""

from typing import Any, Literal

from pydantic import Field

from rlhf.config.schema import Section
from rlhf.config.trainer import TrainerConfig


class TaskShare(Section):
    weight: float = Field(1.0, gt=0, description="Share of the prompts, relative to the weights of the other tasks.")
    config: dict[str, Any] = Field({}, description="Parameters of the task.")


class TasksConfig(TrainerConfig):
    """The task"""

    task: str = Field("spell_backward", description="A task of reasoning-gym, step_arithmetic, or prompts: your own.")
    task_config: dict[str, Any] = Field({}, description="Parameters of the task.")
    tasks: dict[str, TaskShare] = Field({}, description="A mixture of tasks by name, instead of task and task_config.")
    answer_in: Literal["think_tags", "answer_tag", "last_number", "text"] = Field(
        "think_tags",
        description="Where the answer stands: <think>..</think><answer>..</answer>, <answer> alone, or all of it.",
    )
    system_prompt: str | None = Field(None, description="System message before the question.")

    @property
    def parameters_of_tasks(self) -> dict[str, dict[str, Any]]:
        """The parameters of each task by its name."""
        return {name: share.config for name, share in self.tasks.items()} or {self.task: self.task_config}
