"""How much better a completion was than expected. r (b, g): b prompts, g completions of each, over all processes.

Returned as (b, g); the loop spreads it over tokens as (n, 1), never as (n,), which would broadcast over the wrong axis
whenever n == t. With a critic there is one for each token: `gae`, (n, t).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# The paper has none; most code adds 1e-4. With a tiny number such as 1e-8, the rounding of an fp32 mean would turn
# eight equal rewards of 0.7 into advantages of 0.8; here `_equal` makes them 0 exactly besides.
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


def leave_one_out(reward: Float[Tensor, "b g"]) -> Float[Tensor, "b g"]:
    """r - mean of the other g - 1 rewards, which is (r - mean of the group) * g / (g - 1).

    A baseline that does not contain the completion itself, so the gradient stays unbiased. Kool et al. 2019.
    """
    g = reward.shape[1]
    return centred(reward) * g / (g - 1)


def over_mean(reward: Float[Tensor, "b g"]) -> Float[Tensor, "b g"]:
    """(r - mean) / mean within the group, for rewards that are 0 or 1; 0 where none succeeded. Tajwar et al. 2026.

    Dividing by the success rate p weighs a prompt by 1 / p, which makes the gradient of p that of log p as g grows.

    Raises:
        ValueError: a reward is neither 0 nor 1.
    """
    if not ((reward == 0) | (reward == 1)).all():
        raise ValueError(f"rewards must be 0 or 1, found {reward[(reward != 0) & (reward != 1)][0].item()}")
    mean = reward.mean(1, keepdim=True)
    return torch.where(mean > 0, centred(reward) / mean.clamp(min=1 / reward.shape[1]), 0.0)


def gae(
    reward: Float[Tensor, "n t"],
    value: Float[Tensor, "n t"],
    mask: Bool[Tensor, "n t"],
    *,
    gamma: float,
    gae_lambda: float,
) -> Float[Tensor, "n t"]:
    """Generalized advantage estimation, over the tokens that were generated. Schulman et al. 2015, eq. 16.

        delta_t = r_t + gamma * v_(t+1) - v_t          v behind the last token is 0: a completion ends there
        adv_t   = delta_t + gamma * gae_lambda * adv_(t+1)

    gae_lambda 1 is reward-to-go less the value (unbiased, noisy), 0 trusts the critic's next value entirely. The value
    target of a token is adv + value. What stands at padding has no influence and gets 0.
    """
    value, reward = value * mask, reward * mask
    adv = torch.zeros_like(value)
    later, next_value = value.new_zeros(len(value)), value.new_zeros(len(value))
    for t in reversed(range(value.shape[1])):
        delta = reward[:, t] + gamma * next_value - value[:, t]
        later = (delta + gamma * gae_lambda * later) * mask[:, t]
        adv[:, t], next_value = later, value[:, t]
    return adv


def _equal(reward: Float[Tensor, "b g"]) -> Tensor:
    return (reward == reward[:, :1]).all(1, keepdim=True)
