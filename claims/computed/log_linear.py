"""A world in which policies are log-linear and completions enumerated: a policy's accuracy and KL are sums.

log pi(y | x) = log_softmax over y of phi(x, y) . theta. Of each prompt the quarter of completions with the highest
quality is right, and the start is right in about a quarter of its samples.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

PROMPTS, COMPLETIONS, FEATURES = 200, 16, 24
type Theta = Float[Tensor, " f"]


class World:
    """Half of the prompts to learn from, half held out."""

    def __init__(self, seed: int):
        self.random = torch.Generator().manual_seed(seed)
        self.features = torch.randn(PROMPTS, COMPLETIONS, FEATURES, generator=self.random, dtype=torch.float64)
        self.start = 0.3 * torch.randn(FEATURES, generator=self.random, dtype=torch.float64)
        quality = self.features @ torch.randn(FEATURES, generator=self.random, dtype=torch.float64)
        self.right = quality >= quality.quantile(0.75, dim=1, keepdim=True)
        self.training, self.held_out = torch.arange(PROMPTS // 2), torch.arange(PROMPTS // 2, PROMPTS)

    def logp(self, theta: Theta) -> Float[Tensor, "p k"]:
        return (self.features @ theta).log_softmax(-1)

    def sample(self, theta: Theta, count: int) -> Int[Tensor, "p n"]:
        """Completions of each training prompt, by number."""
        return self.logp(theta)[self.training].exp().multinomial(count, replacement=True, generator=self.random)

    def log_ratio(self, theta: Theta) -> Float[Tensor, "p k"]:
        """log pi - log of the start."""
        return self.logp(theta) - self.logp(self.start)

    def accuracy(self, theta: Theta) -> float:
        """The probability of a right completion, mean over held-out prompts."""
        return float((self.logp(theta).exp() * self.right)[self.held_out].sum(1).mean())

    def kl(self, theta: Theta) -> Float[Tensor, ""]:
        """KL(policy || start), nats, mean over training prompts."""
        return (self.logp(theta).exp() * self.log_ratio(theta))[self.training].sum(1).mean()

    def pairs(self, sampled: Int[Tensor, "p 2"]) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"]]:
        """(prompt, right, wrong) of the prompts of whose two completions one is right."""
        right = self.right[self.training].gather(1, sampled)
        prompt = (right[:, 0] != right[:, 1]).nonzero()[:, 0]
        place = right[prompt].int().argmax(1)
        return prompt, sampled[prompt, place], sampled[prompt, 1 - place]


def minimize(
    loss: Callable[[Theta], Float[Tensor, " n"]], theta: Theta, steps: Sequence[int], *, lr: float = 0.02
) -> dict[int, Theta]:
    """Adam on the mean of the loss, over all data in each step; the parameters after each number of `steps`."""
    theta = theta.clone().requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=lr)
    found = {}
    for step in range(1, max(steps) + 1):
        optimizer.zero_grad()
        loss(theta).mean().backward()
        optimizer.step()
        if step in steps:
            found[step] = theta.detach().clone()
    return found
