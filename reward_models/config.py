"""What can be set for reward models. Light: `--help` and bad input are answered before torch is loaded."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from rlhf.config.paths import PathName
from rlhf.config.schema import LARGEST_SEED, Section
from rlhf.config.trainer import TrainerConfig


class DataConfig(Section):
    path: PathName = Field(
        "samples",
        description="A Hub data set, a .jsonl/.json/.parquet/.csv file, a folder, or 'samples' of `policy`, verified.",
    )
    split: str = Field("train", description="Split of a Hub data set or a folder, or a slice such as train[:1%].")
    size: int = Field(0, ge=0, description="Use only so many rows of a file or Hub set; 0 is all.")
    held_out: int = Field(400, gt=0, description="Kept for the final evaluation, whole questions (at most a fifth).")
    validation: int = Field(100, gt=0, description="Kept for early stopping, whole questions (at most a fifth).")
    policy: PathName = Field("embedded", description="samples: the model whose completions are judged.")
    task: str = Field("step_arithmetic", description="samples: of reasoning-gym, step_arithmetic or prompts.")
    task_config: dict[str, Any] = Field({}, description="samples: the task's own parameters.")
    answer_in: Literal["think_tags", "answer_tag", "last_number", "text"] = Field(
        "think_tags",
        description="samples: where the answer stands: <think>..</think><answer>..</answer>, <answer> alone, or all.",
    )
    problems: int = Field(2000, gt=0, description="samples: problems to train on.")
    candidates: int = Field(8, gt=1, description="samples: completions of each problem.")
    pairs: int = Field(
        0,
        ge=0,
        description="samples, preference and outcome: train on so many pairs of a right and a wrong completion of a "
        "problem, each in a row of its own; 0: on all completions of a problem in one row.",
    )
    max_new_tokens: int = Field(96, gt=0, description="samples: tokens at which a completion is cut.")
    system_prompt: str | None = Field(None, description="samples: said to the policy before the question.")
    seed: int = Field(
        0,
        ge=0,
        le=LARGEST_SEED,
        description="samples: of problems and completions; the run's own seed does not change them.",
    )


class RewardModelConfig(TrainerConfig):
    """Reward models"""

    common: ClassVar[tuple[str, ...]] = (
        *("model_name", "data.path", "data.policy", "data.task", "data.size", "max_steps", "batch_size", "max_length"),
        *("lr", "lora_rank", "eval_every", "patience", "seed", "output_dir"),
    )

    data: DataConfig = Field(DataConfig(), description="What to train on.")
    max_steps: int = Field(200, gt=0, description="Optimizer steps at most.")
    batch_size: int = Field(32, gt=0, description="Rankings or questions in an optimizer step, over all processes.")
    max_length: int = Field(1024, gt=1, description="Tokens of a prompt with its longest answer.")
    patience: int = Field(
        0,
        ge=0,
        description="Evaluations without a better validation loss before the run stops; 0: never. The best wins.",
    )
    extra_layers: int = Field(
        0,
        ge=0,
        description="Layers put on top of the backbone, which start by adding 0.",
    )
    new_lr_factor: float = Field(
        1.0,
        gt=0,
        description="Times lr is the learning rate of the head and the extra layers, which start from nothing.",
    )
    samples: int = Field(4, ge=0, description="Held-out examples written to samples.jsonl with their scores.")


class PreferenceConfig(RewardModelConfig):
    """Preference reward model"""

    truncation: Literal["keep_start", "keep_end"] = Field(
        "keep_end", description="Of what is too long: keep_end shortens the prompt, keep_start cuts the answers."
    )
    margin_scale: float = Field(0.0, ge=0, description="Weight of the data's margin in the loss; 0 leaves it out.")
    centering: float = Field(0.01, ge=0, description="Weight of (r_w + r_l)^2, which keeps rewards around 0.")


class OutcomeConfig(RewardModelConfig):
    """Outcome reward model"""

    orm_loss: Literal["tokens", "last"] = Field(
        "tokens", description="Judge the solution at every token, or at the last only. The score is the last token's."
    )


class ProcessConfig(RewardModelConfig):
    """Process reward model"""

    separator: str = Field("\n", description="Ends each step: one token.")
    judged_at: Literal["separator", "step"] = Field(
        "separator", description="The token at which a step is judged: the separator, or the last of the step itself."
    )
    alternatives: bool = Field(True, description="PRM800K: learn from steps that were not chosen too, each on its own.")
