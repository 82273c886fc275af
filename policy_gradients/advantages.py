"""How much better a completion was than expected. r (b, g): b prompts, g completions of each.

Returned as (b, g); the loop spreads it over tokens as (n, 1), never as (n,), which would broadcast over the wrong axis
whenever n == t.
"""

import torch
from jaxtyping import Float
from torch import Tensor

# Shao et al. and those who followed add 1e-4 to the standard deviation. With a tiny number such as 1e-8, the rounding
# of an fp32 mean turns eight equal rewards of 0.7 into advantages of 0.8.
STD_EPSILON = 1e-4


def less_baseline(reward: Float[Tensor, "b g"], *, baseline: float) -> Float[Tensor, "b g"]:
    """r - baseline, one number for all: the mean of earlier rewards, or 0. Williams 1992, section 4.

    Any number that does not depend on the completion itself leaves the expected gradient as it is.
    """
    return reward - baseline


def centred(reward: Float[Tensor, "b g"]) -> Float[Tensor, "b g"]:
    """r - mean of the group; exactly 0 in a group of equal rewards."""
    return torch.where(_equal(reward), 0.0, reward - reward.mean(1, keepdim=True))


def z_score(reward: Float[Tensor, "b g"]) -> Float[Tensor, "b g"]:
    """(r - mean) / (std + 1e-4) within the group, std with g - 1; exactly 0 in a group of equal rewards."""
    return centred(reward) / (reward.std(1, keepdim=True) + STD_EPSILON)


def _equal(reward: Float[Tensor, "b g"]) -> Tensor:
    return (reward == reward[:, :1]).all(1, keepdim=True)
