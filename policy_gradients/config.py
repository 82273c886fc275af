"""The settings of policy gradients. Light: `--help` and errors in a config come before PyTorch is loaded."""

from typing import Any, ClassVar, Literal

from pydantic import Field, create_model, model_validator

from policy_gradients.algorithm_settings import as_fields, declared_settings, declaring_files
from policy_gradients.algorithms import names
from rlhf.config.paths import PathName
from rlhf.config.reference import ReferenceConfig
from rlhf.config.sampling import TruncatedSamplingConfig
from rlhf.config.schema import Section
from rlhf.config.scoring import ScoringConfig
from rlhf.config.trainer import TrainerConfig
from rlhf.config.vllm import VllmConfig
from rlhf.errors import nearest


class RewardWeights(Section):
    exact: float | None = Field(
        None, description="Weight of being right, which is 1 or 0. null: 1, or 0 with a reward_model."
    )
    format: float = Field(0.0, description="Weight of having the form that was asked for.")
    partial: float = Field(0.0, description="Weight of the task's own score, which may give partial credit.")
    model: float = Field(1.0, description="Weight of the reward_model's score, where there is one.")


class CriticConfig(Section):
    backbone: Literal["own", "policy"] = Field(
        "own", description="own: a second network, a copy of the policy; policy: a head on the policy's hidden states."
    )
    lr: float = Field(3e-4, gt=0, description="Learning rate of AdamW for the critic.")
    value_clip: float = Field(0.2, gt=0, description="Distance that a value may move from its old one in an update.")
    max_grad_norm: float = Field(1.0, gt=0, description="Norm that the critic's gradient is scaled down to.")
    warmup_batches: int = Field(0, ge=0, description="Number of first batches in which only the critic learns.")


SETTINGS = declared_settings(declaring_files())  # of single algorithms
AlgorithmSettings: Any = create_model(
    "AlgorithmSettings",
    __base__=TrainerConfig,
    __doc__="Settings of single algorithms; null is the algorithm's published value",
    **as_fields(SETTINGS),
)


class PolicyGradientConfig(AlgorithmSettings, TruncatedSamplingConfig, VllmConfig, ScoringConfig, ReferenceConfig):
    """Policy gradients"""

    common: ClassVar[tuple[str, ...]] = (
        *("model_name", "algorithm", "task", "task_config", "max_steps", "prompts_per_step", "group_size"),
        *("max_new_tokens", "lr", "lora_rank", "kl_coef", "eval_every", "seed", "output_dir"),
    )
    topics: ClassVar[dict[str, str]] = {
        "reward_weights": "Reward",
        "prompts_per_step": "Sampling",
        "epochs_per_batch": "Updates",
        "aggregation": "The algorithm; null is its published value",
        "entropy_coef": "Entropy, and the tokens that are learned from",
        "kl_coef": "The KL to a reference",
    }
    shared_size: ClassVar[tuple[str, str]] = ("prompts_per_step", "steps_per_batch")

    algorithm: str = Field("grpo", description=f"One of {', '.join(names())}.")

    # the reward
    reward_weights: RewardWeights = Field(
        RewardWeights(), description="The reward is the weighted sum of these components."
    )
    reward_functions: dict[PathName, float] = Field(
        {},
        description="Reward components of your own, each with its weight: file.py:function, package.module:function, "
        "or a rubric, file.yaml; see docs/data.md.",
    )

    # sampling
    max_steps: int = Field(60, gt=0, description="Batches of rollouts.")
    prompts_per_step: int = Field(16, gt=0, le=10**5, description="Prompts in a batch of rollouts, over all processes.")
    group_size: int = Field(8, gt=0, le=10**5, description="Completions of each prompt (g).")
    stop_at: Literal["end", "answer"] = Field(
        "end", description="A completion ends at its end token, or already at </answer>."
    )
    resample_rounds: int | None = Field(
        None, ge=0, description="Rounds, at most, that replace groups that are all right or all wrong; 0 is off."
    )
    truncated: Literal["keep", "mask", "penalize"] | None = Field(
        None,
        description="Completions cut at max_new_tokens. keep: rewarded as usual; mask: left out of the loss; "
        "penalize: up to 1 off the reward.",
    )
    overlong_buffer: float | None = Field(
        None, ge=0, lt=1, description="Last share of max_new_tokens, over which the penalty grows from 0 to 1."
    )
    length_penalty: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Taken off the reward of a right completion, in part: more of it the longer it is among the right "
        "ones of its prompt (Arora and Zanette 2025). Wrong ones pay nothing.",
    )

    # updates
    epochs_per_batch: int = Field(1, gt=0, description="Passes over a batch of rollouts.")
    steps_per_batch: int = Field(1, gt=0, description="Optimizer steps in a pass, each on its share of the prompts.")
    staleness: int = Field(
        0,
        ge=0,
        description="Steps between sampling a batch and training on it. With sampler vllm, the server samples the next "
        "batch while this one is trained on.",
    )
    importance: Literal["none", "truncate", "mask"] = Field(
        "none",
        description="Weigh tokens by pi / pi_sampler, between importance_floor and importance_cap. truncate: held "
        "there (TIS); mask: 0 outside (MIS; with a floor, IcePop).",
    )
    importance_level: Literal["token", "sequence"] = Field(
        "token", description="The weight of each token, or the product over the completion, for all its tokens."
    )
    importance_cap: float = Field(2.0, gt=0, description="The largest importance weight.")
    importance_floor: float = Field(0.0, ge=0, description="The smallest importance weight; 0: none.")
    off_policy_mask: float | None = Field(
        None,
        gt=0,
        description="Leave out completions of negative advantage that have become less likely than the sampler said by "
        "more nats per token than this (DeepSeek-V3.2).",
    )

    # the algorithm; null is its published value, see its file
    aggregation: Literal["sequence_mean", "sequence_sum", "token_mean", "fixed_length"] | None = Field(
        None, description="From the loss of each token to one number; null is the algorithm's own."
    )
    critic: CriticConfig | None = Field(
        None, description="The critic: a network that predicts the reward to come (PPO)."
    )

    # entropy, and the tokens that are learned from
    entropy_coef: float = Field(0.0, ge=0, description="Weight of the entropy of each token, which is raised.")
    entropy_target: float | None = Field(
        None,
        gt=0,
        description="Entropy in nats per token below which the bonus acts; entropy_coef then grows by 0.005 in each "
        "optimizer step and falls above (Skywork-OR1). null: entropy_coef stays.",
    )
    top_entropy: float = Field(
        1.0, gt=0, le=1, description="Share of a step's tokens, those of the highest entropy, in the policy's loss."
    )
    covariance: Literal["none", "clip", "kl"] = Field(
        "none",
        description="What becomes of tokens whose log-probability and advantage are far above the mean. clip: some are "
        "left out (Clip-Cov); kl: the highest are held where they were (KL-Cov).",
    )
    covariance_share: float = Field(2e-4, gt=0, le=1, description="Share of a step's tokens that covariance is about.")
    covariance_low: float = Field(1.0, description="clip: chosen are tokens whose covariance is above this, ...")
    covariance_high: float = Field(5.0, description="... and below this.")
    covariance_kl_coef: float = Field(1.0, gt=0, description="kl: weight of |log(pi / pi_old)| at the chosen tokens.")
    second_moment: float | None = Field(
        None,
        gt=0,
        description="Leave out the tokens of a step with the largest log(pi / pi_old)^2, until its mean is at most "
        "this (M2PO).",
    )
    nll_coef: float | None = Field(
        None, ge=0, description="Weight of the negative log-likelihood of right completions (VAPO)."
    )

    # staying near a reference
    kl_coef: float | None = Field(None, ge=0, description="Weight of KL(policy || reference); 0 loads no reference.")
    kl_in: Literal["loss", "reward"] | None = Field(None, description="Where the KL penalty is added.")
    kl_estimator: Literal["k1", "k2", "k3"] | None = Field(
        None, description="Estimator of the KL, see rlhf/kl.py; null: k3 in the loss, k1 in the reward."
    )
    kl_unbiased: bool = Field(
        False,
        description="Weigh the KL in the loss by pi / pi_old, so that its expected gradient is that of KL(policy || "
        "reference), off-policy too (DeepSeek-V3.2).",
    )
    kl_target: float | None = Field(
        None,
        gt=0,
        description="KL in nats per token (papers: per completion) that kl_coef adapts to hold; null: kl_coef stays.",
    )
    sync_reference_every: int = Field(0, ge=0, description="Batches between updates of the reference; 0: it is frozen.")
    sync_reference_mix: float = Field(
        1.0, gt=0, le=1, description="How far an update moves the reference to the policy: 1 all the way."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "PolicyGradientConfig":
        if self.algorithm not in names():
            raise ValueError(f"algorithm: there is no '{self.algorithm}': {nearest(self.algorithm, names())}")
        if self.prompts_per_step % self.steps_per_batch:
            raise ValueError(
                f"prompts_per_step {self.prompts_per_step} cannot be cut into steps_per_batch {self.steps_per_batch}"
            )
        return self
