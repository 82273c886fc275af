"""Credit assignment: from the rewards of completions to the advantages of tokens.

Three ways, by what the algorithm needs. Without a critic all tokens of a completion have one advantage, found within
its group (`needs: groups`) or against the mean of earlier batches (`needs: baseline`). With a critic each token has its
own, by generalized advantage estimation.

What an advantage takes, in this order:

    reward                       (b, g), the rewards of all completions of all processes
    reward, mean_so_far          with `baseline`: the running mean of the rewards of earlier batches
    reward, length               with `lengths`: (b, g), the tokens of each completion that count in the loss
    reward, value, mask          with `critic`: (n, t), of each token
"""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float, Int
from torch import Tensor

from policy_gradients.defaults import Recipe
from policy_gradients.rollout import Batch
from rlhf.distributed import all_reduce_sum, gather_rows, local_rows
from rlhf.tensors import masked_sum


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
        if "critic" in self.recipe.needs:
            return self._per_token(batch)
        # A completion that the loss leaves out pays its penalty all the same: its reward is in the baseline of others.
        reward = batch.reward - masked_sum(batch.penalty, batch.generated).view_as(batch.reward)
        length = batch.mask.sum(1).view_as(batch.reward)
        # Over all processes: an advantage may look at the whole batch.
        reward, length = (gather_rows(rows, self.accelerator) for rows in (reward, length))
        adv = per_completion(self.recipe, reward, length, mean_so_far=self.baseline.value or 0.0)
        if "baseline" in self.recipe.needs:
            self.baseline.update(float(reward.mean()))
        adv = local_rows(adv, self.accelerator).reshape(-1, 1)
        batch.adv = adv.expand_as(batch.logp_sampler)
        return {}

    def _per_token(self, batch: Batch) -> dict[str, float]:
        mask = batch.mask
        reward = token_rewards(batch.reward.flatten(), batch.penalty, mask)
        adv = self.recipe.advantage(reward, batch.value, mask)
        batch.target = adv + batch.value
        batch.adv = whiten(adv, mask, self.accelerator)
        outcome = reward_to_go(reward, gamma=self.recipe.settings["gamma"])
        explained = explained_variance(batch.value, outcome, mask, self.accelerator)
        return {"critic/explained_variance": explained}

    def state(self) -> dict[str, Any]:
        return {"baseline": self.baseline.value}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.baseline.value = state.get("baseline")


def per_completion(
    recipe: Recipe, reward: Float[Tensor, "b g"], length: Int[Tensor, "b g"], *, mean_so_far: float
) -> Float[Tensor, "b g"]:
    """The advantage of each completion, from its reward and what else the algorithm needs."""
    if "baseline" in recipe.needs:
        return recipe.advantage(reward, mean_so_far)
    if "lengths" in recipe.needs:
        return recipe.advantage(reward, length)
    return recipe.advantage(reward)


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


def reward_to_go(reward: Float[Tensor, "n t"], *, gamma: float) -> Float[Tensor, "n t"]:
    """sum over k >= 0 of gamma^k * r_(t+k): the value of each token if no other future were possible.

    >>> reward_to_go(torch.tensor([[0.0, 0.0, 1.0]]), gamma=0.5)
    tensor([[0.2500, 0.5000, 1.0000]])
    """
    out = torch.zeros_like(reward)
    following = reward.new_zeros(len(reward))
    for t in reversed(range(reward.shape[1])):
        following = reward[:, t] + gamma * following
        out[:, t] = following
    return out


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
