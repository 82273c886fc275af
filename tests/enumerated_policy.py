"""A policy whose completions are enumerated, so that expectations over samples are sums and gradients are exact."""

import itertools

import torch
from torch import Tensor

from policy_gradients.algorithms import names
from policy_gradients.config import PolicyGradientConfig
from policy_gradients.credit import Outcomes, per_completion
from policy_gradients.defaults import Recipe, resolve
from rlhf.aggregate import Totals, sequence_sum
from rlhf.tensors import masked_sum

RECIPES = {name: resolve(PolicyGradientConfig(algorithm=name)) for name in names()}


class Enumerated:
    """A policy over completions of at most 3 tokens of {a, b, end}: logits for each of the 7 prefixes without an end.

    end; a end, b end; and 4 prefixes of two letters with any third token: 1 + 2 + 12 = 15 completions of 1-3 tokens.
    """

    def __init__(self, seed: int):
        letters = "ab"
        self.prefixes = ["", *letters, *map("".join, itertools.product(letters, repeat=2))]
        self.outcomes = ["e", "ae", "be", *(p + last for p in self.prefixes[3:] for last in "abe")]
        generator = torch.Generator().manual_seed(seed)
        self.theta = torch.randn(7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
        self.reward = torch.randn(15, generator=generator, dtype=torch.float64)
        self.mask = torch.tensor([[i < len(o) for i in range(3)] for o in self.outcomes])

    def logp(self) -> Tensor:
        table = self.theta.log_softmax(-1)
        rows = torch.full((15, 3), float("nan"), dtype=torch.float64)  # behind the end: whatever
        for i, outcome in enumerate(self.outcomes):
            for j, token in enumerate(outcome):
                rows[i, j] = table[self.prefixes.index(outcome[:j]), "abe".index(token)]
        return rows

    def probability(self) -> Tensor:
        return masked_sum(self.logp(), self.mask).exp()

    def gradient(self, value: Tensor) -> Tensor:
        return torch.autograd.grad(value, self.theta)[0]

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
