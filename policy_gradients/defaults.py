"""An algorithm with every setting of the config bound: what a training step computes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from policy_gradients.algorithm import keyword_only, load
from policy_gradients.config import CriticConfig, PolicyGradientConfig
from policy_gradients.fill import fill
from policy_gradients.published import Extra, Need, Penalty, Sampling
from policy_gradients.ratios import importance_weight
from rlhf.aggregate import Aggregate, aggregates
from rlhf.kl import estimators


@dataclass(frozen=True)
class Recipe:
    """What a training step computes: an algorithm with the config's settings, nothing left open."""

    config: PolicyGradientConfig  # the resolved config: the published value in place of every null
    needs: frozenset[Need]
    settings: dict[str, Any]  # of the advantage and the surrogate, by name
    advantage: Callable[..., Tensor]  # reward (b, g) -> adv (b, g), with some needs from more; settings bound
    ratio: Callable[[Tensor, Tensor, Tensor], Tensor] | None  # logp, logp_old, mask -> (n, t)
    surrogate: Callable[..., Tensor]  # logp, ratio, adv, mask -> loss (n, t); settings bound
    aggregate: Aggregate
    kl: Penalty
    kl_estimate: Callable[[Tensor, Tensor], Float[Tensor, "n t"]]  # logp, logp_ref -> nats
    sampling: Sampling
    extra: Extra
    importance_weight: Callable[[Tensor, Tensor, Tensor], Tensor]  # logp, logp_sampler, mask -> (n, t)
    critic: CriticConfig | None

    @property
    def updates(self) -> int:
        """Optimizer steps on a batch of rollouts."""
        return self.config.epochs_per_batch * self.config.steps_per_batch

    @property
    def critic_warmup_steps(self) -> int:
        """Number of first batches, the critic's warm-up, in which the policy does not learn."""
        return self.critic.warmup_batches if self.critic else 0

    @property
    def policy_updates(self) -> int:
        """Optimizer steps of the policy in the whole run."""
        return (self.config.max_steps - self.critic_warmup_steps) * self.updates

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
    resolved = fill(config)
    algorithm = load(resolved.algorithm)
    value = resolved.model_dump()
    return Recipe(
        config=resolved,
        needs=algorithm.needs,
        settings={name: value[name] for name in algorithm.settings},
        advantage=partial(algorithm.advantage, **{name: value[name] for name in keyword_only(algorithm.advantage)}),
        ratio=algorithm.ratio,
        surrogate=partial(algorithm.surrogate, **{name: value[name] for name in keyword_only(algorithm.surrogate)}),
        aggregate=aggregates[value["aggregation"]],
        kl=Penalty(value["kl_coef"], value["kl_in"], value["kl_estimator"]),
        kl_estimate=estimators[value["kl_estimator"]],
        sampling=Sampling(value["resample_rounds"], value["truncated"], value["overlong_buffer"]),
        extra=Extra(value["second_moment"], value["nll_coef"]),
        importance_weight=partial(
            importance_weight,
            correction=value["importance"],
            level=value["importance_level"],
            floor=value["importance_floor"],
            cap=value["importance_cap"],
        ),
        critic=resolved.critic,
    )
