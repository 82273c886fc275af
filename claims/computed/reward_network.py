"""Small reward models of completions that are vectors, whose gold reward is another network: nobody has to be asked."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from claims.computed.vectors import FEATURES, PAIRS


class Gold:
    """Completions and what they are worth."""

    def __init__(self, seed: int):
        self.random = torch.Generator().manual_seed(seed)
        self.first = torch.randn(FEATURES, 32, generator=self.random) / FEATURES**0.5
        self.second = torch.randn(32, generator=self.random)
        reward = self._raw(torch.randn(10_000, FEATURES, generator=self.random))
        self.mean, self.std = reward.mean(), reward.std()

    def _raw(self, completions: Float[Tensor, "*n f"]) -> Float[Tensor, "*n"]:
        return torch.tanh(2 * completions @ self.first) @ self.second

    def reward(self, completions: Float[Tensor, "*n f"]) -> Float[Tensor, "*n"]:
        return (self._raw(completions) - self.mean) / self.std

    def completions(self, *size: int) -> Float[Tensor, "*n f"]:
        return torch.randn(*size, FEATURES, generator=self.random)

    def pairs(self, noise: float) -> tuple[Float[Tensor, "n f"], Float[Tensor, "n f"]]:
        """(chosen, rejected), of which a share is the wrong way round."""
        one, other = self.completions(PAIRS), self.completions(PAIRS)
        swap = torch.rand(PAIRS, generator=self.random) < noise
        first = ((self.reward(one) > self.reward(other)) != swap)[:, None]
        return torch.where(first, one, other), torch.where(first, other, one)


def quarters(values: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Of each value the quarter that it lies in: 0 of the smallest, 3 of the largest."""
    return 4 * values.argsort().argsort() // len(values)


def train(
    loss: Callable[[Float[Tensor, " n"], Float[Tensor, " n"]], Float[Tensor, " n"]],
    chosen: Float[Tensor, "n f"],
    rejected: Float[Tensor, "n f"],
    *,
    seed: int,
    steps: int = 300,
) -> nn.Module:
    """A reward model: all pairs in each step. `seed`: of its first weights alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, 1), nn.Flatten(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(chosen), model(rejected)).mean().backward()
        optimizer.step()
    return model.requires_grad_(False)
