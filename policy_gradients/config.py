"""What can be set for policy gradients. Light: `--help` and bad input are answered before torch is loaded."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from rlhf.config.paths import PathName
from rlhf.config.schema import COLDEST, Section
from rlhf.config.trainer import TrainerConfig

# By looking at the file names, so that torch need not be loaded to print them; a test compares with `algorithms`.
ALGORITHM_NAMES = sorted(p.stem for p in (Path(__file__).parent / "algorithms").glob("[a-z]*.py"))


class RewardWeights(Section):
    exact: float | None = Field(
        None, description="Weight of being right, which is 1 or 0. null: 1, or 0 where a reward_model judges."
    )
    format: float = Field(0.0, description="Weight of having the form asked for.")
    partial: float = Field(0.0, description="Weight of the task's own score, which may give partial credit.")
    model: float = Field(1.0, description="Weight of the reward_model's score, where there is one.")


class TaskShare(Section):
    weight: float = Field(1.0, gt=0, description="Its share of the prompts, relative to the other tasks'.")
    config: dict[str, Any] = Field({}, description="The task's own parameters.")


class CriticConfig(Section):
    backbone: Literal["own", "policy"] = Field(
        "own", description="own: a second network that starts as a copy of the policy; policy: a head on its states."
    )
    lr: float = Field(3e-4, gt=0, description="Learning rate of AdamW for the critic.")
    value_clip: float = Field(0.2, gt=0, description="A value may move this far from its old one in an update.")
    max_grad_norm: float = Field(1.0, gt=0, description="The critic's gradients are scaled down to this norm.")
    warmup_batches: int = Field(0, ge=0, description="First batches of rollouts in which only the critic learns.")


class PolicyGradientConfig(TrainerConfig):
    """Policy gradients"""

    shared_size: ClassVar[tuple[str, str]] = ("prompts_per_step", "steps_per_batch")

    algorithm: str = Field("grpo", description=f"One of {', '.join(ALGORITHM_NAMES)}.")

    # what is asked and how it is judged
    task: str = Field("spell_backward", description="A task of reasoning-gym, step_arithmetic, or word_problems.")
    task_config: dict[str, Any] = Field({}, description="The task's own parameters.")
    tasks: dict[str, TaskShare] = Field({}, description="A mixture of tasks by name, instead of task and task_config.")
    answer_in: Literal["think_tags", "answer_tag", "last_number", "text"] = Field(
        "think_tags",
        description="Where the answer stands: <think>..</think><answer>..</answer>, <answer> alone, or all.",
    )
    system_prompt: str | None = Field(None, description="Said to the model before the question.")
    reward_weights: RewardWeights = Field(RewardWeights(), description="The reward is the weighted sum of its parts.")
    reward_functions: dict[PathName, float] = Field(
        {},
        description="Your own parts of the reward: 'file.py:function' and its weight; see policy_gradients/rewards.py.",
    )

    reward_model: PathName | list[PathName] | None = Field(
        None, description="A run of reward_models that judges the completions, or several: an ensemble."
    )
    reward_model_combine: Literal["mean", "min", "mean_minus_variance", "mean_minus_std"] = Field(
        "mean", description="Of an ensemble: the members' mean, the least of them, or the mean less their disagreement."
    )
    reward_model_variance_weight: float | None = Field(
        None, ge=0, description="lambda of mean_minus_variance: mean - lambda * variance; null is 0.5."
    )
    reward_model_steps: Literal["min", "product", "last"] = Field(
        "min", description="Of a process model: how the scores of steps become one."
    )

    # sampling
    max_steps: int = Field(60, gt=0, description="Batches of rollouts.")
    prompts_per_step: int = Field(16, gt=0, le=10**5, description="Prompts in a batch of rollouts, over all processes.")
    group_size: int = Field(8, gt=0, le=10**5, description="Completions of each prompt.")
    max_new_tokens: int = Field(64, gt=0, description="Tokens at which a completion is cut.")
    stop_at: Literal["end", "answer"] = Field(
        "end", description="A completion stops at its end token, or at </answer>."
    )
    temperature: float = Field(1.0, ge=COLDEST, description="Of sampling and of scoring alike.")
    top_p: float = Field(1.0, gt=0, le=1, description="Sample from the likeliest tokens of this mass; 1 is off.")
    top_k: int = Field(0, ge=0, description="Sample from so many likeliest tokens; 0 is off.")
    sampling_batch: int = Field(256, gt=0, description="Completions decoded together.")
    resample_rounds: int | None = Field(
        None, ge=0, description="Groups all right or all wrong are replaced, in so many rounds at most; 0 is off."
    )
    truncated: Literal["keep", "mask", "penalize"] | None = Field(
        None,
        description="Completions cut at max_new_tokens: judged as any, left out of the loss, or up to 1 less reward.",
    )
    overlong_buffer: float | None = Field(
        None, ge=0, lt=1, description="The penalty grows from 0 to 1 over this last share of max_new_tokens."
    )

    # updates
    epochs_per_batch: int = Field(1, gt=0, description="Passes over a batch of rollouts.")
    steps_per_batch: int = Field(1, gt=0, description="Optimizer steps in a pass; each takes its share of the prompts.")
    staleness: int = Field(0, ge=0, description="Batches are trained on so many steps after they were sampled.")
    importance: Literal["none", "truncate", "mask"] = Field(
        "none", description="Weigh tokens by pi / pi_sampler: no, cut at importance_cap (TIS), or 0 above it (MIS)."
    )
    importance_cap: float = Field(2.0, gt=0, description="The largest importance weight.")

    # the algorithm: null is its own value, published or as its file says
    aggregation: Literal["sequence_mean", "sequence_sum", "token_mean", "fixed_length"] | None = Field(
        None, description="From loss per token to one number; null is the algorithm's own."
    )
    clip_low: float | None = Field(None, gt=0, lt=1, description="The ratio is clipped at 1 - this.")
    clip_high: float | None = Field(None, gt=0, description="The ratio is clipped at 1 + this.")
    dual_clip: float | None = Field(None, gt=1, description="Bound of the ratio where the advantage is negative.")
    tau_pos: float | None = Field(None, gt=0, description="Steepness of SAPO's gate where the advantage is positive.")
    tau_neg: float | None = Field(None, gt=0, description="Steepness of SAPO's gate where it is negative.")
    baseline: Literal["running_mean", "none"] | None = Field(None, description="What REINFORCE compares a reward with.")
    gamma: float | None = Field(None, gt=0, le=1, description="Discount of later rewards, per token.")
    gae_lambda: float | None = Field(None, ge=0, le=1, description="1: rewards as they came; 0: trust the critic.")
    critic: CriticConfig | None = Field(None, description="The network that guesses the reward to come, for PPO.")

    # staying near a reference
    kl_coef: float | None = Field(None, ge=0, description="Weight of KL(policy || reference); 0 loads no reference.")
    kl_in: Literal["loss", "reward"] | None = Field(None, description="Where the KL penalty enters.")
    kl_estimator: Literal["k1", "k2", "k3"] | None = Field(None, description="Estimator of the KL; see rlhf/kl.py.")
    kl_target: float | None = Field(
        None,
        gt=0,
        description="Nats per token (papers say: per completion) that kl_coef is adapted to hold; null keeps it.",
    )
    sync_reference_every: int = Field(
        0, ge=0, description="Batches after which the reference follows; 0: it is frozen."
    )
    sync_reference_mix: float = Field(
        1.0, gt=0, le=1, description="How far it moves towards the policy: 1 all the way."
    )

    # evaluation
    eval_problems: int = Field(500, gt=0, le=10**6, description="Held-out problems, of each task.")

    @property
    def judges(self) -> list[str]:
        """The reward models, none, one or several."""
        return [self.reward_model] if isinstance(self.reward_model, str) else self.reward_model or []

    @model_validator(mode="after")
    def _fits_together(self) -> "PolicyGradientConfig":
        if self.algorithm not in ALGORITHM_NAMES:
            from rlhf.errors import nearest

            raise ValueError(f"algorithm: there is no '{self.algorithm}': {nearest(self.algorithm, ALGORITHM_NAMES)}")
        if self.reward_model_combine != "mean" and len(self.judges) < 2:
            raise ValueError(f"reward_model_combine: {self.reward_model_combine} needs several reward models")
        if self.reward_model_variance_weight is not None and self.reward_model_combine != "mean_minus_variance":
            raise ValueError("reward_model_variance_weight: only reward_model_combine mean_minus_variance has it")
        if self.prompts_per_step % self.steps_per_batch:
            raise ValueError(
                f"prompts_per_step {self.prompts_per_step} cannot be cut into steps_per_batch {self.steps_per_batch}"
            )
        return self
