"""The config keys of trainers whose completions a trained reward model may score."""

from typing import Literal

from pydantic import Field, model_validator

from rlhf.config.paths import PathName
from rlhf.config.trainer import TrainerConfig


class ScoringConfig(TrainerConfig):
    """The reward model"""

    reward_model: PathName | list[PathName] | None = Field(
        None,
        description="A run of reward_models, or a Hub id, whose score rewards completions; several: an ensemble.",
    )
    reward_model_combine: Literal["mean", "min", "mean_minus_variance", "mean_minus_std"] = Field(
        "mean",
        description="Score of an ensemble: the members' mean, their minimum, or the mean minus their disagreement.",
    )
    reward_model_variance_weight: float | None = Field(
        None, ge=0, description="lambda of mean_minus_variance: mean - lambda * variance; null is 0.5."
    )
    reward_model_steps: Literal["min", "product", "last"] = Field(
        "min", description="Score of a process model: how the scores of its steps become one."
    )

    @property
    def reward_models(self) -> list[str]:
        """The runs that `reward_model` names: none, one or several."""
        return [self.reward_model] if isinstance(self.reward_model, str) else self.reward_model or []

    @model_validator(mode="after")
    def _is_an_ensemble(self) -> "ScoringConfig":
        if self.reward_model_combine != "mean" and len(self.reward_models) < 2:
            raise ValueError(f"reward_model_combine: {self.reward_model_combine} needs several reward models")
        if self.reward_model_variance_weight is not None and self.reward_model_combine != "mean_minus_variance":
            raise ValueError("reward_model_variance_weight: only reward_model_combine mean_minus_variance has it")
        if not self.reward_models:
            self.refuse_idle("reward_model_steps", because="there is no reward model", cure="--reward_model RUN")
        return self
