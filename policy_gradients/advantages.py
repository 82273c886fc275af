"""Advantages: how much better a completion was than expected.

Shapes: reward (b, g), the g completions of each of b prompts, over all processes. The advantage has the same shape and
is spread over tokens as (n, 1), never as (n,), which would broadcast over the wrong axis whenever n == t. Where rewards
are those of tokens, there is one advantage for each token, (n, t): `gae`, `reward_to_go`.

What an advantage may take beside the reward, by the needs of its algorithm, is listed in policy_gradients/credit.py.
Its settings are its keyword-only parameters: see policy_gradients/algorithm.py.
"""

from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

# The paper adds nothing to std; most code adds 1e-4. A tiny number such as 1e-8 is not above the rounding of an fp32
# mean: eight equal rewards of 0.7 would get advantages of 0.8. `_equal` sets those to exactly 0 in addition.
STD_EPSILON = 1e-4

Baseline = Annotated[
    Literal["running_mean", "none"], Field(description="What REINFORCE subtracts from a reward; none: nothing.")
]
Gamma = Annotated[float, Field(gt=0, le=1, description="Discount of later rewards, per token.")]
GaeLambda = Annotated[
    float, Field(ge=0, le=1, description="1: the rewards as they came; 0: the critic's next value alone.")
]


def minus_baseline(reward: Float[Tensor, "b g"], mean_so_far: float, *, baseline: Baseline) -> Float[Tensor, "b g"]:
    """r - b, one number b for all: the mean of the rewards of earlier batches, or 0. Williams 1992, section 4.

    Any number that does not depend on the completion itself leaves the expected gradient unchanged.

    >>> minus_baseline(torch.tensor([[1.0, 0.0]]), 0.25, baseline="running_mean")
    tensor([[ 0.7500, -0.2500]])
    """
    return reward - mean_so_far if baseline == "running_mean" else reward


def center(reward: Float[Tensor, "b g"]) -> Float[Tensor, "b g"]:
    """r - mean of the group; exactly 0 in a group of equal rewards.

    >>> center(torch.tensor([[1.0, 0.0, 0.0, 3.0], [0.7, 0.7, 0.7, 0.7]]))
    tensor([[ 0., -1., -1.,  2.],
            [ 0.,  0.,  0.,  0.]])
    """
    return torch.where(_equal(reward), 0.0, reward - reward.mean(1, keepdim=True))


def group_normalize(reward: Float[Tensor, "b g"]) -> Float[Tensor, "b g"]:
    """(r - mean) / (std + 1e-4) within the group, std with g - 1; exactly 0 in a group of equal rewards.

    One of four completions is right: mean 0.25, std 0.5. The right one is worth three times what each wrong one costs.

    >>> group_normalize(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    tensor([[ 1.4997, -0.4999, -0.4999, -0.4999]])
    """
    return center(reward) / (reward.std(1, keepdim=True) + STD_EPSILON)


def leave_one_out(reward: Float[Tensor, "b g"]) -> Float[Tensor, "b g"]:
    """r - mean of the other g - 1 rewards, which is (r - mean of the group) * g / (g - 1). Kool et al. 2019.

    The baseline does not contain the completion itself, so the gradient is unbiased.

    >>> leave_one_out(torch.tensor([[1.0, 0.0, 0.5]]))
    tensor([[ 0.7500, -0.7500,  0.0000]])
    """
    g = reward.shape[1]
    return center(reward) * g / (g - 1)


def mean_normalize(reward: Float[Tensor, "b g"]) -> Float[Tensor, "b g"]:
    """(r - mean) / mean within the group, for rewards that are 0 or 1; 0 where none succeeded. Tajwar et al. 2026.

    Dividing by the success rate p weighs a prompt by 1 / p, which makes the gradient of p that of log p as g grows.

    >>> mean_normalize(torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    tensor([[ 3., -1., -1., -1.],
            [ 1.,  1., -1., -1.],
            [ 0.,  0.,  0.,  0.]])

    Raises:
        ValueError: a reward is neither 0 nor 1.
    """
    refuse_partial(reward)
    mean = reward.mean(1, keepdim=True)
    return torch.where(mean > 0, center(reward) / mean.clamp(min=1 / reward.shape[1]), 0.0)


def refuse_partial(reward: Float[Tensor, "b g"]) -> None:
    """Raises: ValueError: a reward is neither 0 nor 1."""
    partial = reward[(reward != 0) & (reward != 1)]
    if len(partial):
        raise ValueError(f"rewards must be 0 or 1, found {partial[0].item()}")


def gae(
    reward: Float[Tensor, "n t"],
    value: Float[Tensor, "n t"],
    mask: Bool[Tensor, "n t"],
    *,
    gamma: Gamma,
    gae_lambda: GaeLambda,
) -> Float[Tensor, "n t"]:
    """Generalized advantage estimation over the tokens that count. Schulman et al. 2015, eq. 16.

        delta_t = r_t + gamma * v_(t+1) - v_t          v behind the last token is 0: a completion ends there
        adv_t   = delta_t + gamma * gae_lambda * adv_(t+1)

    gae_lambda 1 is the reward-to-go minus the value (unbiased, noisy), 0 trusts the critic's next value entirely. The
    value target of a token is adv + value. Padding has no influence and gets 0.

    The reward 1 comes at the last of two tokens; the critic expected 0.5 before it and 0.25 at the start. With
    gae_lambda 0 each token gets its own surprise, with gae_lambda 1 the first also gets the one after it.

    >>> reward, value = torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[0.25, 0.5, 9.0]])
    >>> mask = torch.tensor([[True, True, False]])
    >>> gae(reward, value, mask, gamma=1.0, gae_lambda=0.0)
    tensor([[0.2500, 0.5000, 0.0000]])
    >>> gae(reward, value, mask, gamma=1.0, gae_lambda=1.0)
    tensor([[0.7500, 0.5000, 0.0000]])
    """
    return gae_of(reward, value, mask, gamma=gamma, gae_lambda=gae_lambda)


def gae_of(
    reward: Float[Tensor, "n t"],
    value: Float[Tensor, "n t"],
    mask: Bool[Tensor, "n t"],
    *,
    gamma: float,
    gae_lambda: float | Float[Tensor, " n"],
) -> Float[Tensor, "n t"]:
    """`gae`, where gae_lambda may be another for each completion."""
    value = value * mask
    reward = reward * mask
    adv = torch.zeros_like(value)
    next_adv = value.new_zeros(len(value))
    next_value = value.new_zeros(len(value))
    for t in reversed(range(value.shape[1])):
        delta = reward[:, t] + gamma * next_value - value[:, t]
        next_adv = (delta + gamma * gae_lambda * next_adv) * mask[:, t]
        next_value = value[:, t]
        adv[:, t] = next_adv
    return adv


def reward_to_go(reward: Float[Tensor, "n t"], *, gamma: Gamma) -> Float[Tensor, "n t"]:
    """sum over k >= 0 of gamma^k * r_(t+k), for each token; rewards behind the end are 0.

    It is `gae` with gae_lambda 1 and a critic that says 0.

    >>> reward_to_go(torch.tensor([[0.0, 0.0, 1.0]]), gamma=0.5)
    tensor([[0.2500, 0.5000, 1.0000]])
    """
    out = torch.zeros_like(reward)
    following = reward.new_zeros(len(reward))
    for t in reversed(range(reward.shape[1])):
        following = reward[:, t] + gamma * following
        out[:, t] = following
    return out


def _equal(reward: Float[Tensor, "b g"]) -> Bool[Tensor, "b 1"]:
    return (reward == reward[:, :1]).all(1, keepdim=True)
