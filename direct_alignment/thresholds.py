"""The implicit reward that parts wanted from unwanted completions, of losses that need no pairs."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from direct_alignment.loss import Each


def kto_reference_point(s_mismatched: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """z of `kto`, nats, without gradient."""
    return s_mismatched.mean().clamp(min=0).detach()


def kto_threshold(s_mismatched: Float[Tensor, " k"], *, beta: float) -> Float[Tensor, ""]:
    """beta z: a completion whose implicit reward is above it is a gain."""
    return beta * kto_reference_point(s_mismatched)


def bco_threshold(s: Each, desirable: Bool[Tensor, " c"], *, beta: float) -> Float[Tensor, ""]:
    """d of `bco`, without gradient; where there is one class alone, its mean reward."""
    present = [beta * s[kind].mean() for kind in (desirable, ~desirable) if kind.any()]
    return torch.stack(present).mean().detach()
