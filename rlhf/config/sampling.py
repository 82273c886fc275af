"""The config keys of trainers that sample completions of their tasks, in training and of held-out problems."""

from typing import Any, ClassVar

from pydantic import Field

from rlhf.config.schema import COLDEST
from rlhf.config.tasks import TasksConfig


class SamplingConfig(TasksConfig):
    """Sampling"""

    topics: ClassVar[dict[str, str]] = {"eval_problems": "Evaluation"}

    max_new_tokens: int = Field(64, gt=0, description="Tokens at which a completion is cut.")
    temperature: float = Field(1.0, ge=COLDEST, description="Temperature of sampling and of scoring.")
    sampling_batch: int | None = Field(
        None, gt=0, description="Completions decoded together; null: 256, or what fits a quarter of a GPU's memory."
    )
    eval_problems: int = Field(500, gt=0, le=10**6, description="Held-out problems of each task.")

    @property
    def kept_tokens(self) -> dict[str, Any]:
        """Which tokens are sampled from: arguments of `rlhf.sampling.sample`."""
        return {}


class TruncatedSamplingConfig(SamplingConfig):
    """Sampling from the likeliest tokens"""

    top_p: float = Field(1.0, gt=0, le=1, description="Sample from the likeliest tokens of this mass; 1 is off.")
    top_k: int = Field(0, ge=0, description="Sample from so many likeliest tokens; 0 is off.")

    @property
    def kept_tokens(self) -> dict[str, Any]:
        return {"top_k": self.top_k, "top_p": self.top_p}
