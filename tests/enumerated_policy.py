"""A policy whose completions are enumerated, so that expectations over samples are sums and gradients are exact."""

import itertools

import torch
from torch import Tensor

import claims.computed.enumerated
from policy_gradients.algorithms import names
from policy_gradients.config import PolicyGradientConfig
from policy_gradients.credit import Outcomes, per_completion
from policy_gradients.defaults import Recipe, resolve
from rlhf.aggregate import Totals, sequence_sum
from rlhf.tensors import masked_sum

RECIPES = {name: resolve(PolicyGradientConfig(algorithm=name)) for name in names()}


class Enumerated(claims.computed.enumerated.Enumerated):
    """With the step of an algorithm."""

    def ascent(self, adv: Tensor, *, aggregate=sequence_sum, name: str = "reinforce") -> Tensor:
        """The expected step: every outcome once, its advantage weighed by 15 times its probability."""
        weighed = (15 * self.probability().detach() * adv)[:, None]
        recipe, logp = RECIPES[name], self.logp()
        ratio = recipe.ratio(logp, logp.detach(), self.mask) if recipe.ratio else None
        loss = recipe.surrogate(logp, ratio, weighed, self.mask)
        return -self.gradient(aggregate(loss, self.mask, Totals(15, int(self.mask.sum()), 3)))


def expected_ascent(
    name: str, policy: Enumerated, reward: Tensor, *, g: int, recipe: Recipe | None = None, **known: Tensor
) -> Tensor:
    """The expected gradient of a group of g, every one of the 15^g groups with its probability.

    Args:
        recipe: that of the algorithm, unless another is given.
        known: what the advantage takes beside reward and length.
    """
    recipe = recipe or RECIPES[name]
    logp, length = masked_sum(policy.logp(), policy.mask), policy.mask.sum(1)
    total = torch.zeros(())
    for group in itertools.product(range(15), repeat=g):
        picked = list(group)
        adv = per_completion(recipe, Outcomes(reward[None, picked], length[None, picked], **known))[0]
        total = total + logp[picked].sum().exp().detach() * (adv * logp[picked]).sum() / g
    return policy.gradient(total)
