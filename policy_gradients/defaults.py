"""An algorithm's own settings, filled in where the config leaves them open; contradictions are refused."""

from collections.abc import Callable, Iterator
from inspect import Parameter, signature
from typing import Any

from policy_gradients.algorithm import Algorithm
from policy_gradients.algorithms import algorithms
from policy_gradients.config import CriticConfig, PolicyGradientConfig
from rlhf.aggregate import aggregates
from rlhf.errors import UserError

# Settings that only the algorithms that name them read. (KL, resampling and the rest can be added to any.)
PARTICULAR = ("clip_low", "clip_high", "dual_clip", "tau_pos", "tau_neg", "baseline", "gamma", "gae_lambda")
ANYBODYS = {"resample_rounds": 0, "truncated": "keep", "overlong_buffer": 0.2}  # where the algorithm says nothing


def resolve(config: PolicyGradientConfig) -> tuple[PolicyGradientConfig, Algorithm]:
    """The config with no algorithm setting left open, and the algorithm.

    Raises:
        UserError: the config sets something that the algorithm does not have or cannot do.
    """
    algorithm = algorithms[config.algorithm]
    given = {key for key in type(config).model_fields if getattr(config, key) is not None}
    published: dict[str, Any] = {**ANYBODYS, **algorithm.settings}
    filled = {key: value for key, value in published.items() if key not in given}
    if "kl_estimator" not in given:  # k1 has no gradient as a loss, and k3's vanishes near the reference as a reward
        filled["kl_estimator"] = {"reward": "k1", "loss": "k3"}[config.kl_in or published["kl_in"]]
    if "critic" in algorithm.needs and config.critic is None:
        filled["critic"] = CriticConfig()
    filled["aggregation"] = config.aggregation or next(k for k, v in aggregates.items() if v is algorithm.aggregate)
    resolved = config.model_copy(update=filled)
    for message, hint in _contradictions(config, resolved, algorithm):
        raise UserError(message, hint)
    return resolved, algorithm


def settings_of(function: Callable, config: PolicyGradientConfig) -> dict[str, Any]:
    """The settings that an advantage or a surrogate names as its keyword-only parameters."""
    keywords = [p.name for p in signature(function).parameters.values() if p.kind is Parameter.KEYWORD_ONLY]
    return {name: getattr(config, name) for name in keywords}


def _contradictions(
    given: PolicyGradientConfig, config: PolicyGradientConfig, algorithm: Algorithm
) -> Iterator[tuple[str, str | None]]:
    """What is wrong with a resolved config, and what to do about it."""
    name, needs = config.algorithm, algorithm.needs
    for key in PARTICULAR:
        if getattr(given, key) is not None and key not in algorithm.settings:
            readers = [other for other, it in algorithms.items() if key in it.settings]
            yield f"{key}: {name} does not have it", f"It belongs to {', '.join(readers)}."
    if given.critic is not None and "critic" not in needs:
        yield f"critic: {name} has none", "It belongs to ppo."
    if "groups" in needs and config.group_size < 2:
        yield (
            f"group_size: {name} compares the completions of a prompt, so 2 at least, not {config.group_size}",
            "--group_size 8 is usual; reinforce and ppo work with 1.",
        )
    updates = config.epochs_per_batch * config.steps_per_batch
    if algorithm.ratio is None and (updates > 1 or config.staleness) and config.importance == "none":
        when = f"{config.staleness} steps old" if config.staleness else f"for {updates} optimizer steps"
        yield (
            f"{name} has no ratio, so it cannot use a batch of rollouts {when}: the tokens are no longer its own",
            "Set epochs_per_batch and steps_per_batch to 1 and staleness to 0, weigh the tokens with --importance "
            "truncate, or use an algorithm with a ratio, such as grpo.",
        )
    if config.kl_in == "loss" and config.kl_estimator == "k1":
        yield "kl_estimator: k1 has zero expected gradient as a loss", "Use k3 or k2, or --kl_in reward."
    if config.kl_in == "reward" and config.kl_estimator != "k1":
        yield (
            f"kl_estimator: {config.kl_estimator} in the reward is no penalty near the reference",
            "Use k1 (--kl_estimator k1), whose gradient is that of the KL, or --kl_in loss.",
        )
    if config.kl_target is not None and not config.kl_coef:
        yield "kl_target: needs a kl_coef above 0 to start from", "For example --kl_coef 0.02."
    if config.sync_reference_every and config.lora_rank:
        yield "sync_reference_every: the reference cannot follow adapters", "Set lora_rank to 0, or leave it frozen."
    if config.sync_reference_every and not config.kl_coef:
        yield "sync_reference_every: there is no reference without a kl_coef above 0", None
    weights = config.reward_weights
    if "binary" in needs:
        impure = [
            *(f"reward_weights.{part}" for part in ("format", "partial") if getattr(weights, part)),
            *(["reward_weights.exact"] if weights.exact not in (None, 1) else []),
            *(["reward_model"] if config.judges else []),
            *(["reward_functions"] if config.reward_functions else []),
            *(["truncated: penalize"] if config.truncated == "penalize" else []),
            *(["kl_in: reward"] if config.kl_coef and config.kl_in == "reward" else []),
        ]
        if impure:
            yield (
                f"{impure[0]}: {name} needs rewards that are 1 or 0, so exact success and nothing else",
                "Other parts are measured all the same, whatever their weight.",
            )
    if config.tasks and (given.task != type(given).model_fields["task"].default or given.task_config):
        yield "tasks: give a mixture (tasks) or one task (task and task_config), not both", None
