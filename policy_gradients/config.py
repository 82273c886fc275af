"""What can be set for policy gradients. Light: `--help` and bad input are answered before torch is loaded."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from rlhf.config import Section
from rlhf.settings import TrainerConfig

# By looking at the file names, so that torch need not be loaded to print them; a test compares with `algorithms`.
ALGORITHM_NAMES = sorted(p.stem for p in (Path(__file__).parent / "algorithms").glob("[a-z]*.py"))


class RewardWeights(Section):
    exact: float = Field(1.0, description="Weight of being right: 1 or 0, never partial credit.")
    format: float = Field(0.0, description="Weight of having the form asked for.")
    partial: float = Field(0.0, description="Weight of reasoning-gym's own score, which gives partial credit.")


class PolicyGradientConfig(TrainerConfig):
    """Policy gradients"""

    algorithm: str = Field("grpo", description=f"One of {', '.join(ALGORITHM_NAMES)}.")

    # what is asked and how it is judged
    task: str = Field("spell_backward", description="A task of reasoning-gym, or step_arithmetic.")
    task_config: dict[str, Any] = Field({}, description="The task's own parameters.")
    answer_in: Literal["think_tags", "answer_tag", "last_number", "text"] = Field(
        "think_tags",
        description="Where the answer stands: <think>..</think><answer>..</answer>, <answer> alone, or all.",
    )
    system_prompt: str | None = Field(None, description="Said to the model before the question.")
    reward_weights: RewardWeights = Field(RewardWeights(), description="The reward is the weighted sum of its parts.")

    # sampling
    max_steps: int = Field(60, gt=0, description="Batches of rollouts.")
    prompts_per_step: int = Field(16, gt=0, description="Prompts in a batch of rollouts, over all processes.")
    group_size: int = Field(8, gt=0, description="Completions of each prompt.")
    max_new_tokens: int = Field(64, gt=0, description="Tokens at which a completion is cut.")
    temperature: float = Field(1.0, gt=0, description="Of sampling and of scoring alike.")
    top_p: float = Field(1.0, gt=0, le=1, description="Sample from the likeliest tokens of this mass; 1 is off.")
    top_k: int = Field(0, ge=0, description="Sample from so many likeliest tokens; 0 is off.")
    sampling_batch: int = Field(256, gt=0, description="Completions decoded together.")

    # updates
    epochs_per_batch: int = Field(1, gt=0, description="Passes over a batch of rollouts.")
    steps_per_epoch: int = Field(1, gt=0, description="Optimizer steps in a pass; each takes its share of the prompts.")

    # the algorithm: null is its published value
    aggregation: Literal["sequence_mean", "sequence_sum", "token_mean", "fixed_length"] | None = Field(
        None, description="From loss per token to one number; null is the algorithm's own."
    )
    clip_low: float | None = Field(None, gt=0, lt=1, description="The ratio is clipped at 1 - this.")
    clip_high: float | None = Field(None, gt=0, description="The ratio is clipped at 1 + this.")
    baseline: Literal["running_mean", "none"] | None = Field(None, description="What REINFORCE compares a reward with.")
    kl_coef: float | None = Field(None, ge=0, description="Weight of KL(policy || reference); 0 loads no reference.")
    kl_in: Literal["loss", "reward"] | None = Field(None, description="Where the KL penalty enters.")
    kl_estimator: Literal["k1", "k2", "k3"] | None = Field(None, description="Estimator of the KL; see rlhf/kl.py.")

    # evaluation
    eval_problems: int = Field(500, gt=0, description="Held-out problems.")

    @model_validator(mode="after")
    def _fits_together(self) -> "PolicyGradientConfig":
        if self.algorithm not in ALGORITHM_NAMES:
            from rlhf.errors import nearest

            raise ValueError(f"algorithm: there is no '{self.algorithm}': {nearest(self.algorithm, ALGORITHM_NAMES)}")
        if self.prompts_per_step % self.steps_per_epoch:
            raise ValueError(
                f"prompts_per_step {self.prompts_per_step} cannot be cut into steps_per_epoch {self.steps_per_epoch}"
            )
        if self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ValueError("kl_estimator k1 has zero expected gradient as a loss: use k3 or k2, or kl_in reward")
        return self
