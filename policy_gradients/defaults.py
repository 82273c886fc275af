"""The algorithm with every setting filled in, where the config leaves it open; contradictions are refused."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from policy_gradients.algorithm import Algorithm, Need, Penalty, Sampling, keyword_only, load, load_all
from policy_gradients.config import SETTINGS, CriticConfig, PolicyGradientConfig
from rlhf.aggregate import Aggregate, aggregates
from rlhf.errors import UserError
from rlhf.kl import estimators

# As a loss, k1 has an expected gradient of zero; as a reward, k3 has one that vanishes near the reference.
ESTIMATOR = {"reward": "k1", "loss": "k3"}


@dataclass(frozen=True)
class Recipe:
    """What a training step computes: an algorithm with the config's settings, nothing left open."""

    config: PolicyGradientConfig  # the resolved config: the published value in place of every null
    needs: frozenset[Need]
    settings: dict[str, Any]  # of the advantage and the surrogate, by name
    advantage: Callable[..., Tensor]  # reward (b, g) -> adv (b, g); with a critic, per token; settings bound
    ratio: Callable[[Tensor, Tensor, Tensor], Tensor] | None  # logp, logp_old, mask -> (n, t)
    surrogate: Callable[..., Tensor]  # logp, ratio, adv, mask -> loss (n, t); settings bound
    aggregate: Aggregate
    kl: Penalty
    kl_estimate: Callable[[Tensor, Tensor], Float[Tensor, "n t"]]  # logp, logp_ref -> nats
    sampling: Sampling
    critic: CriticConfig | None

    @property
    def updates(self) -> int:
        """Optimizer steps on a batch of rollouts."""
        return self.config.epochs_per_batch * self.config.steps_per_batch

    @property
    def critic_alone(self) -> int:
        """Number of first batches, the critic's warm-up, in which the policy does not learn."""
        return self.critic.warmup_batches if self.critic else 0

    @property
    def policy_updates(self) -> int:
        """Optimizer steps of the policy in the whole run."""
        return (self.config.max_steps - self.critic_alone) * self.updates

    @property
    def kl_in_reward(self) -> bool:
        return self.kl.kl_coef > 0 and self.kl.kl_in == "reward"

    @property
    def kl_in_loss(self) -> bool:
        return self.kl.kl_coef > 0 and self.kl.kl_in == "loss"


def resolve(config: PolicyGradientConfig) -> Recipe:
    """The recipe that a config asks for.

    Raises:
        UserError: the config sets something that the algorithm does not have or cannot do.
    """
    algorithm = load(config.algorithm)
    _refuse_settings_of_others(config, algorithm)
    filled = {key: value for key, value in algorithm.published.items() if getattr(config, key) is None}
    if config.kl_estimator is None:
        filled["kl_estimator"] = ESTIMATOR[config.kl_in or algorithm.kl.kl_in]
    if config.critic is None and "critic" in algorithm.needs:
        filled["critic"] = CriticConfig()
    if config.aggregation is None:
        filled["aggregation"] = next(name for name, it in aggregates.items() if it is algorithm.aggregate)
    resolved = config.model_copy(update=filled)
    for message, hint in _contradictions(config, resolved, algorithm):
        raise UserError(message, hint)
    value = resolved.model_dump()
    return Recipe(
        config=resolved,
        needs=algorithm.needs,
        settings={name: value[name] for name in algorithm.settings},
        advantage=partial(algorithm.advantage, **{name: value[name] for name in keyword_only(algorithm.advantage)}),
        ratio=algorithm.ratio,
        surrogate=partial(algorithm.surrogate, **{name: value[name] for name in keyword_only(algorithm.surrogate)}),
        aggregate=aggregates[value["aggregation"]],
        kl=Penalty(value["kl_coef"], value["kl_in"]),
        kl_estimate=estimators[value["kl_estimator"]],
        sampling=Sampling(value["resample_rounds"], value["truncated"], value["overlong_buffer"]),
        critic=resolved.critic,
    )


def _refuse_settings_of_others(config: PolicyGradientConfig, algorithm: Algorithm) -> None:
    for key in SETTINGS:
        if getattr(config, key) is not None and key not in algorithm.settings:
            readers = [name for name, it in load_all().items() if key in it.settings]
            raise UserError(f"{key}: {config.algorithm} does not have it", f"It belongs to {', '.join(readers)}.")
    if config.critic is not None and "critic" not in algorithm.needs:
        readers = [name for name, it in load_all().items() if "critic" in it.needs]
        raise UserError(f"critic: {config.algorithm} has none", f"It belongs to {', '.join(readers)}.")


def _contradictions(
    given: PolicyGradientConfig, config: PolicyGradientConfig, algorithm: Algorithm
) -> Iterator[tuple[str, str | None]]:
    """What is wrong with a resolved config, and what to do about it."""
    name = config.algorithm
    if "groups" in algorithm.needs and config.group_size < 2:
        yield (
            f"group_size: {name} compares the completions of a prompt, so 2 at least, not {config.group_size}",
            "--group_size 8 is usual; reinforce and ppo work with 1.",
        )
    updates = config.epochs_per_batch * config.steps_per_batch
    if algorithm.ratio is None and (updates > 1 or config.staleness) and config.importance == "none":
        when = f"{config.staleness} steps old" if config.staleness else f"for {updates} optimizer steps"
        yield (
            f"{name} has no ratio, so it cannot use a batch of rollouts {when}: the samples would be off-policy",
            "Set epochs_per_batch and steps_per_batch to 1 and staleness to 0, weigh the tokens with --importance "
            "truncate, or use an algorithm with a ratio, such as grpo.",
        )
    yield from _contradictions_of_kl(config)
    if "binary" in algorithm.needs and (impure := _other_than_success(config)):
        yield (
            f"{impure[0]}: {name} needs rewards that are 1 or 0, so exact success and nothing else",
            "The other components are measured all the same, whatever their weight.",
        )
    if config.tasks and (given.task != type(given).model_fields["task"].default or given.task_config):
        yield "tasks: give a mixture (tasks) or one task (task and task_config), not both", None


def _contradictions_of_kl(config: PolicyGradientConfig) -> Iterator[tuple[str, str | None]]:
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


def _other_than_success(config: PolicyGradientConfig) -> list[str]:
    """The settings that make a reward something else than 1 for a right answer and 0 for a wrong one."""
    weights = config.reward_weights
    other = {
        "reward_weights.format": weights.format != 0,
        "reward_weights.partial": weights.partial != 0,
        "reward_weights.exact": weights.exact not in (None, 1),
        "reward_model": bool(config.reward_models),
        "reward_functions": bool(config.reward_functions),
        "truncated: penalize": config.truncated == "penalize",
        "kl_in: reward": bool(config.kl_coef) and config.kl_in == "reward",
    }
    return [name for name, is_set in other.items() if is_set]
