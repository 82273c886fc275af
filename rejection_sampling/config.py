"""What can be set for rejection sampling. Light: `--help` and errors in a config come before PyTorch is loaded."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from rlhf.config.sampling import TruncatedSamplingConfig
from rlhf.config.scoring import ScoringConfig

Selection = Literal["top_per_prompt", "top_k_overall", "random_per_prompt", "random_k_overall"]


class RejectionSamplingConfig(TruncatedSamplingConfig, ScoringConfig):
    """Rejection sampling"""

    common: ClassVar[tuple[str, ...]] = (
        *("model_name", "selection", "keep", "min_reward", "task", "task_config", "reward_model"),
        *("prompts_per_round", "group_size", "max_new_tokens", "steps_per_round", "max_steps", "batch_size", "lr"),
        *("lora_rank", "seed", "output_dir"),
    )
    topics: ClassVar[dict[str, str]] = {
        "selection": "Selection",
        "prompts_per_round": "Sampling",
        "steps_per_round": "Rounds and updates",
        "eval_every": "Evaluation",
    }

    # the selection
    selection: Selection = Field(
        "top_per_prompt",
        description="Which completions are learned: those of the highest reward, of each prompt or of all; random_* "
        "select as many by lot, as a control.",
    )
    keep: int | None = Field(
        None,
        gt=0,
        description="Completions to select: of each prompt, or, with *_overall, in a round; null: 1 of each prompt, or "
        "as many as there are prompts.",
    )
    min_reward: float | None = Field(
        None,
        description="Completions with a smaller reward are not selected: 1 keeps what the verifier calls right. A "
        "random control selects as many as are left by it.",
    )
    distinct: bool = Field(False, description="Select a completion once, however often it was sampled for its prompt.")

    # sampling
    prompts_per_round: int = Field(500, gt=0, le=10**6, description="Prompts of a round, the next of the stream.")
    group_size: int = Field(8, gt=0, le=10**5, description="Completions of each prompt (g).")

    # rounds and updates
    steps_per_round: int = Field(30, gt=0, description="Optimizer steps on the selection of a round.")
    max_steps: int = Field(30, gt=0, description="Optimizer steps in all: of one round, or of several.")
    train_from: Literal["current", "start"] = Field(
        "current",
        description="Where a round's training begins: at the weights of the round before (RAFT), or at those of the "
        "start, with a new optimizer (ReST-EM).",
    )
    batch_size: int = Field(32, gt=0, description="Completions in an optimizer step, over all processes.")

    # evaluation
    eval_every: int = Field(0, ge=0, description="Steps between held-out evaluations; 0: before, and after each round.")

    @model_validator(mode="after")
    def _fits_together(self) -> "RejectionSamplingConfig":
        per_prompt = self.selection.endswith("per_prompt")
        most = self.group_size if per_prompt else self.group_size * self.prompts_per_round
        if self.keep is not None and self.keep > most:
            sampled = "of a prompt" if per_prompt else "in a round"
            raise ValueError(f"keep {self.keep}: {most} completions are sampled {sampled}")
        return self


def fill(config: RejectionSamplingConfig) -> RejectionSamplingConfig:
    """The config with the values that a `keep` of null and an `eval_every` of 0 stand for."""
    per_prompt = config.selection.endswith("per_prompt")
    keep = config.keep or (1 if per_prompt else config.prompts_per_round)
    return config.model_copy(update={"keep": keep, "eval_every": config.eval_every or config.steps_per_round})
