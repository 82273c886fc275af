"""The config keys of trainers whose prompts are problems of one task or of several."""

from typing import Any, Literal

from pydantic import Field, model_validator

from rlhf.config.paths import PathName
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

    # which problems are trained on
    difficulty: PathName | None = Field(
        None, description="How often each training problem is solved, a file of rlhf.evaluate.difficulty; null: all."
    )
    difficulty_low: float = Field(0.2, ge=0, le=1, description="Leave out problems that are solved less often, ...")
    difficulty_high: float = Field(0.8, ge=0, le=1, description="... and those that are solved more often.")
    curriculum: Literal["none", "easiest_first"] = Field(
        "none", description="Order of the first pass over the problems of difficulty; later passes are shuffled."
    )

    @property
    def parameters_of_tasks(self) -> dict[str, dict[str, Any]]:
        """The parameters of each task by its name."""
        return {name: share.config for name, share in self.tasks.items()} or {self.task: self.task_config}

    @model_validator(mode="after")
    def _difficulty_fits(self) -> "TasksConfig":
        if self.difficulty_low > self.difficulty_high:
            raise ValueError(
                f"difficulty_low {self.difficulty_low:g} is above difficulty_high {self.difficulty_high:g}"
            )
        if self.difficulty is not None and self.tasks:
            raise ValueError("difficulty: it is measured of one task, and tasks is a mixture")
        if self.difficulty is None:
            no_file = "there is no file that says how often problems are solved"
            self.refuse_idle("difficulty_low", "difficulty_high", because=no_file, cure="--difficulty FILE")
        if self.difficulty is None and self.curriculum != "none":
            raise ValueError(f"curriculum {self.curriculum}: what is easy says difficulty, and there is none")
        return self
