"""A policy whose completions are enumerated, so that expectations over samples are sums and gradients are exact."""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf.tensors import masked_sum


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
        # Whether a completion (n) has a token behind a prefix (s).
        self.goes_on = torch.tensor(
            [[o.startswith(prefix) and len(o) > len(prefix) for o in self.outcomes] for prefix in self.prefixes]
        )

    def logp(self) -> Float[Tensor, "n t"]:
        """Of each token of each completion; nan behind the end."""
        return self.logp_under(self.theta)

    def logp_under(self, theta: Float[Tensor, "s v"]) -> Float[Tensor, "n t"]:
        """`logp` with other logits."""
        table = theta.log_softmax(-1)
        rows = torch.full((15, 3), float("nan"), dtype=torch.float64)  # behind the end: whatever
        for i, outcome in enumerate(self.outcomes):
            for j, token in enumerate(outcome):
                rows[i, j] = table[self.prefixes.index(outcome[:j]), "abe".index(token)]
        return rows

    def probability(self) -> Float[Tensor, " n"]:
        return masked_sum(self.logp(), self.mask).exp()

    def visits(self) -> Float[Tensor, " s"]:
        """The probability that a completion has a token behind each prefix."""
        return self.goes_on.double() @ self.probability()

    def gradient(self, value: Float[Tensor, ""]) -> Float[Tensor, "s v"]:
        return torch.autograd.grad(value, self.theta, retain_graph=True)[0]
