"""An algorithm's published settings, filled in where the config leaves them open; contradictions are refused."""

from policy_gradients.algorithm import Algorithm
from policy_gradients.algorithms import algorithms
from policy_gradients.config import PolicyGradientConfig
from rlhf.aggregate import aggregates
from rlhf.errors import UserError

# Settings that only some algorithms read. (A KL penalty can be added to any.)
PARTICULAR = ("clip_low", "clip_high", "baseline")


def resolve(config: PolicyGradientConfig) -> tuple[PolicyGradientConfig, Algorithm]:
    """The config with no algorithm setting left open, and the algorithm.

    Raises:
        UserError: the config sets something that the algorithm does not have or cannot do.
    """
    name, algorithm = config.algorithm, algorithms[config.algorithm]
    for key in PARTICULAR:
        if getattr(config, key) is not None and key not in algorithm.settings:
            readers = [other for other, it in algorithms.items() if key in it.settings]
            raise UserError(f"{key}: {name} does not have it", hint=f"It belongs to {', '.join(readers)}.")
    if "groups" in algorithm.needs and config.group_size < 2:
        raise UserError(
            f"group_size: {name} compares the completions of a prompt, so 2 at least, not {config.group_size}",
            hint="--group_size 8 is usual; reinforce works with 1.",
        )
    updates = config.epochs_per_batch * config.steps_per_epoch
    if algorithm.ratio is None and updates > 1:
        raise UserError(
            f"{name} has no ratio, so a batch of rollouts serves one optimizer step, not {updates}: "
            "after the first, the tokens are no longer the policy's own",
            hint="Set epochs_per_batch and steps_per_epoch to 1, or use an algorithm with a ratio, such as grpo.",
        )
    filled = {key: value for key, value in algorithm.settings.items() if getattr(config, key) is None}
    if config.kl_estimator is None:  # k1 has no gradient as a loss, and k3's vanishes near the reference as a reward
        filled["kl_estimator"] = {"reward": "k1", "loss": "k3"}[config.kl_in or algorithm.settings["kl_in"]]
    filled["aggregation"] = config.aggregation or next(k for k, v in aggregates.items() if v is algorithm.aggregate)
    resolved = PolicyGradientConfig.model_validate({**config.model_dump(), **filled})
    return resolved, algorithm
