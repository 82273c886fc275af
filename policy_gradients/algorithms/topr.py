"""TOPR: tapered off-policy REINFORCE. Le Roux et al. 2025, arXiv 2503.14286.

Off-policy, praise needs no weight and blame needs one of at most 1.

    adv_i = 2 r_i - 1 - reward_shift                                r is 1 or 0: right counts 1, wrong counts -1
    w_i   = 1 if adv_i >= 0, else min(pi(o_i) / pi_old(o_i), 1)     of the whole completion, without gradient
    loss  = mean over sequences of sum over tokens of -w * adv * logp

Choices here, all the paper's: rewards of 1 and -1, the product of all token ratios, reward_shift 0 (its c), no KL.

What to know. REINFORCE on stale data pushes a wrong completion down for ever, whose probability is long gone: the
logits run away. Here its weight vanishes with its probability, so that the objective is bounded. A right one keeps its
full weight however unlikely it is, as in supervised learning. On-policy it is REINFORCE with a constant baseline; off
policy its gradient is not that of the expected reward. A larger reward_shift makes wrong completions count more.
"""

from functools import partial
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from policy_gradients.algorithm import Algorithm
from policy_gradients.ratios import completion_ratio
from policy_gradients.surrogates import Advantage, PerToken
from rlhf.aggregate import Mask, sequence_sum

RewardShift = Annotated[float, Field(gt=-1, lt=1, description="Taken off rewards of 1 and -1 (TOPR).")]


def plus_or_minus(reward: Float[Tensor, "b g"], *, reward_shift: RewardShift) -> Float[Tensor, "b g"]:
    """2 r - 1 - reward_shift.

    >>> plus_or_minus(torch.tensor([[1.0, 0.0]]), reward_shift=0.5)
    tensor([[ 0.5000, -1.5000]])
    """
    return 2 * reward - 1 - reward_shift


def tapered(logp: PerToken, ratio: PerToken, adv: Advantage, _mask: Mask) -> PerToken:
    """-w * adv * logp, w = 1 where adv >= 0 and min(ratio, 1) elsewhere, without gradient.

    >>> logp, ratio = torch.full((2, 1), -1.0), torch.tensor([[0.25], [0.25]])
    >>> tapered(logp, ratio, torch.tensor([[1.0], [-1.0]]), torch.tensor([[True], [True]]))
    tensor([[ 1.0000],
            [-0.2500]])
    """
    weight = torch.where(adv >= 0, 1.0, ratio.detach().clamp(max=1))
    return -weight * adv * logp


topr = Algorithm(
    advantage=partial(plus_or_minus, reward_shift=0.0),
    ratio=completion_ratio,
    surrogate=tapered,
    aggregate=sequence_sum,
    needs=frozenset({"binary"}),
)
