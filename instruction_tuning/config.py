"""What can be set for instruction tuning."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from rlhf.config.paths import PathName
from rlhf.config.schema import Section
from rlhf.config.trainer import TrainerConfig


class DataConfig(Section):
    path: PathName = Field(
        "demonstrations",
        description="A Hub data set, a .jsonl/.json/.parquet/.csv file, a folder, or 'demonstrations' made of tasks.",
    )
    split: str = Field("train", description="Split of a Hub data set or a folder, or a slice such as train[:1%].")
    size: int = Field(0, ge=0, description="Use only so many rows of a file or Hub set; 0 is all.")
    held_out: int = Field(
        400, ge=0, description="Conversations kept for evaluation (at most a fifth of a set); 0: none, no evaluation."
    )
    tasks: dict[str, dict[str, Any]] = Field(
        {"spell_backward": {}, "step_arithmetic": {}},
        description="Demonstrations: the tasks, in equal parts, each with its parameters.",
    )
    wrong: dict[str, float] = Field({}, description="Demonstrations: for each task the share with a mistake in it.")
    wrong_from: float = Field(
        0.0, ge=0, le=1, description="Demonstrations: mistakes begin after this share of the steps."
    )


class ScratchConfig(Section):
    hidden_size: int = Field(128, gt=0, description="Width of the residual stream.")
    intermediate_size: int = Field(384, gt=0, description="Width of the feed-forward layers.")
    num_hidden_layers: int = Field(4, gt=0, description="Layers.")
    num_attention_heads: int = Field(4, gt=0, description="Query heads.")
    num_key_value_heads: int = Field(2, gt=0, description="Key and value heads.")


class InstructionTuningConfig(TrainerConfig):
    """Instruction tuning"""

    common: ClassVar[tuple[str, ...]] = (
        *("model_name", "data.path", "data.size", "max_steps", "batch_size", "max_length", "lr", "lora_rank"),
        *("eval_every", "seed", "output_dir"),
    )

    scratch: ScratchConfig | None = Field(
        None, description="Sizes of a new model with a character tokenizer, instead of model_name."
    )
    data: DataConfig = Field(DataConfig(), description="What to train on.")
    loss: Literal["nll", "dft"] = Field(
        "nll", description="nll: maximum likelihood; dft: each token weighed by its probability, without gradient."
    )
    max_steps: int = Field(300, gt=0, description="Optimizer steps.")
    batch_size: int = Field(32, gt=0, description="Conversations in an optimizer step, over all processes.")
    max_length: int = Field(1024, gt=1, description="Longest conversation, tokens; see truncation.")
    truncation: Literal["refuse", "keep_start"] = Field(
        "refuse",
        description="Longer conversations: refuse counts them as unusable; keep_start cuts them at their end, and the "
        "cut answer has no end token.",
    )
    last_turn_only: bool = Field(False, description="Learn the assistant's last turn only, instead of all its turns.")
    pack_to: int = Field(0, ge=0, description="Put short conversations together in rows of so many tokens; 0: never.")
    eval_max_new_tokens: int = Field(128, gt=0, description="Longest answer sampled in evaluation and samples.")
