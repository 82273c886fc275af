"""Credit assignment: from the rewards of completions to the advantages of tokens.

Of completions: all tokens of a completion have one advantage, found within its group (`needs: groups`), against the
mean of earlier batches (`baseline`), or against the greedy completion (`greedy`). An advantage takes what its
parameters name:

    reward           (b, g), the rewards of all completions of all processes
    mean_so_far      a number, with `baseline`: the running mean of the rewards of earlier batches
    length           (b, g), with `lengths`: the tokens of each completion that count in the loss
    greedy_reward    (b, 1), with `greedy`: the reward of the greedy completion of each prompt
    components       (b, g, k), with `components`: the parts of each reward, and weights (k), what each counts

Of tokens (`token_rewards`): each token has its own, from the rewards of the tokens that follow it.

    reward           (n, t): the completion's reward at its last token, minus the KL penalty of each token
    value, mask      (n, t), with `critic`

With `whitened`, advantages are normalized over all tokens of the batch afterwards.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float, Int
from torch import Tensor

from policy_gradients.advantages import reward_to_go
from policy_gradients.defaults import Recipe
from policy_gradients.rollout import Batch
from rlhf.distributed import all_reduce_sum, gather_rows, local_rows
from rlhf.tensors import masked_sum


@dataclass(frozen=True)
class Outcomes:
    """What is known of the completions of a batch, of all processes."""

    reward: Float[Tensor, "b g"]
    length: Int[Tensor, "b g"]
    mean_so_far: float = 0.0
    greedy_reward: Float[Tensor, "b 1"] | None = None
    components: Float[Tensor, "b g k"] | None = None
    weights: Float[Tensor, " k"] | None = None


class RunningMean:
    """REINFORCE's baseline: an exponential mean of the rewards of the batches so far."""

    def __init__(self) -> None:
        self.value: float | None = None  # None before the first batch

    def update(self, mean: float) -> None:
        """0.9 of the old value and 0.1 of the mean of a batch; the mean itself for the first batch."""
        self.value = mean if self.value is None else 0.9 * self.value + 0.1 * mean


class Credit:
    """Assigns the advantages of a batch, as the algorithm says."""

    def __init__(self, recipe: Recipe, accelerator: Accelerator):
        self.recipe = recipe
        self.accelerator = accelerator
        self.baseline = RunningMean()

    def assign(self, batch: Batch) -> dict[str, float]:
        """Fill in the advantages of a batch, and with a critic the targets of its values. Returns metrics."""
        needs = self.recipe.needs
        metrics = {}
        if "token_rewards" in needs:
            reward = token_rewards(batch.reward.flatten(), batch.penalty, batch.mask)
            batch.adv = call_by_name(self.recipe.advantage, reward=reward, value=batch.value, mask=batch.mask)
            if "critic" in needs:
                metrics = self._teach_critic(batch, reward)
        else:
            batch.adv = self._of_completions(batch)
        if "whitened" in needs:
            batch.adv = whiten(batch.adv, batch.mask, self.accelerator)
        return metrics

    def _of_completions(self, batch: Batch) -> Float[Tensor, "n t"]:
        # A completion that the loss leaves out pays its penalty all the same: its reward is in the baseline of others.
        reward = batch.reward - masked_sum(batch.penalty, batch.generated).view_as(batch.reward)
        length = batch.mask.sum(1).view_as(batch.reward)

        def whole(rows: Tensor | None) -> Tensor | None:
            """Over all processes: an advantage may look at the whole batch."""
            return None if rows is None else gather_rows(rows, self.accelerator)

        outcomes = Outcomes(
            reward=gather_rows(reward, self.accelerator),
            length=gather_rows(length, self.accelerator),
            mean_so_far=self.baseline.value or 0.0,
            greedy_reward=whole(batch.greedy_reward),
            components=whole(batch.components),
            weights=batch.weights,
        )
        adv = per_completion(self.recipe, outcomes)
        if "baseline" in self.recipe.needs:
            self.baseline.update(float(outcomes.reward.mean()))
        return local_rows(adv, self.accelerator).reshape(-1, 1).expand_as(batch.logp_sampler)

    def _teach_critic(self, batch: Batch, reward: Float[Tensor, "n t"]) -> dict[str, float]:
        outcome = reward_to_go(reward, gamma=self.recipe.settings["gamma"])
        batch.target = outcome if "returns" in self.recipe.needs else batch.adv + batch.value
        explained = explained_variance(batch.value, outcome, batch.mask, self.accelerator)
        return {"critic/explained_variance": explained}

    def state(self) -> dict[str, Any]:
        return {"baseline": self.baseline.value}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.baseline.value = state.get("baseline")


def per_completion(recipe: Recipe, outcomes: Outcomes) -> Float[Tensor, "b g"]:
    """The advantage of each completion."""
    return call_by_name(recipe.advantage, **vars(outcomes))


def call_by_name(function: Callable[..., Tensor], **known: Any) -> Tensor:
    """What a function makes of the quantities that its parameters name."""
    parameters = inspect.signature(function).parameters.values()
    return function(*(known[p.name] for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD))


def token_rewards(
    reward: Float[Tensor, " n"], penalty: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"]
) -> Float[Tensor, "n t"]:
    """-penalty at each token, plus the completion's reward at the last one that counts.

    >>> mask = torch.tensor([[True, True, False]])
    >>> token_rewards(torch.tensor([1.0]), torch.full((1, 3), 0.25), mask)
    tensor([[-0.2500,  0.7500,  0.0000]])
    """
    last = mask & (mask.long().cumsum(1) == mask.sum(1, keepdim=True))
    return torch.where(mask, -penalty, 0.0) + last * reward[:, None]


def whiten(x: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"], accelerator: Accelerator) -> Float[Tensor, "n t"]:
    """(x - mean) / (std + 1e-8) over every token that counts, of all processes; 0 elsewhere."""
    counted = x[mask].double()
    count, first, second = all_reduce_sum(
        [len(counted), float(counted.sum()), float(counted.square().sum())], accelerator
    )
    mean = first / max(1, count)  # no token counts if all completions were cut and are left out
    std = max(0.0, second / max(1, count) - mean**2) ** 0.5
    return torch.where(mask, (x - mean) / (std + 1e-8), 0.0)


def explained_variance(
    value: Float[Tensor, "n t"], outcome: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"], accelerator: Accelerator
) -> float:
    """1 - Var(outcome - value) / Var(outcome) over the tokens: 1 is perfect, 0 as good as a constant.

    0 where every outcome is the same. `outcome` is the reward-to-go, which does not depend on the critic.
    """
    error = (outcome - value)[mask].double()
    outcome = outcome[mask].double()
    sums = [error.sum(), error.square().sum(), outcome.sum(), outcome.square().sum()]
    count, e, ee, o, oo = all_reduce_sum([len(error), *map(float, sums)], accelerator)
    count = max(1, count)
    spread = oo / count - (o / count) ** 2
    return 1 - (ee / count - (e / count) ** 2) / spread if spread > 1e-12 else 0.0
