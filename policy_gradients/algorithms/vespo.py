"""VESPO: variational sequence-level soft policy optimization. Shen et al. (Xiaohongshu), 2026, arXiv 2602.10693.

The exact importance weight of a completion, reshaped so that none can be large: no clip, no division by the length.

    adv_i  = (r_i - mean(r)) / (std(r) + 1e-4)                       over the g completions of a prompt
    w_i    = pi(o_i) / pi_old(o_i)                                   of the whole completion, without gradient
    phi(w) = w^k exp(lambda (1 - w))                                 k_pos, lambda_pos if adv >= 0; k_neg, lambda_neg
    loss   = mean over tokens of -phi(w) * adv * logp

Choices here. The values and the mean over all tokens of the step are those of the authors' code. No KL.
configs/vespo.yaml sets staleness 4, which it is for.

What to know. phi is 1 at w = 1, largest at w = k / lambda, and falls to 0 on both sides without an edge: right
completions weigh most where they are two thirds as likely as before, wrong ones at one and a half times. So weights are
bounded, where the variance of w itself grows with the length. On-policy it is REINFORCE with the z-score; off-policy
its gradient is not that of the expected reward, which would need w. A wrong completion that has become five times as
likely counts 0.04: what a stale policy has come to prefer since is hardly punished. TOPR, its neighbour, keeps the
weight 1 for a right completion, however unlikely it has become, and for a wrong one that has become likelier.
"""

from functools import partial
from typing import Annotated

import torch
from pydantic import Field

from policy_gradients.advantages import group_normalize
from policy_gradients.algorithm import Algorithm
from policy_gradients.algorithm_settings import OFF_POLICY
from policy_gradients.ratios import completion_ratio
from policy_gradients.surrogates import Advantage, PerToken
from rlhf.aggregate import Mask, token_mean

KPos = Annotated[
    float, Field(gt=0, description="Power of the completion's ratio where the advantage is not negative."), OFF_POLICY
]
KNeg = Annotated[
    float, Field(gt=0, description="Power of the completion's ratio where the advantage is negative."), OFF_POLICY
]
LambdaPos = Annotated[
    float, Field(gt=0, description="Decay in the ratio where the advantage is not negative."), OFF_POLICY
]
LambdaNeg = Annotated[float, Field(gt=0, description="Decay in the ratio where the advantage is negative."), OFF_POLICY]


def reshaped_importance(
    logp: PerToken,
    ratio: PerToken,
    adv: Advantage,
    _mask: Mask,
    *,
    k_pos: KPos,
    lambda_pos: LambdaPos,
    k_neg: KNeg,
    lambda_neg: LambdaNeg,
) -> PerToken:
    """-phi(ratio) * adv * logp, phi(w) = w^k exp(lambda (1 - w)) without gradient, k and lambda by the sign of adv.

    >>> logp, ratio, mask = torch.full((2, 1), -1.0), torch.full((2, 1), 2.0), torch.full((2, 1), True)
    >>> kernel = {"k_pos": 2.0, "lambda_pos": 3.0, "k_neg": 3.0, "lambda_neg": 2.0}
    >>> reshaped_importance(logp, ratio, torch.tensor([[1.0], [-1.0]]), mask, **kernel)
    tensor([[ 0.1991],
            [-1.0827]])
    """
    k = torch.where(adv >= 0, adv.new_tensor(k_pos), adv.new_tensor(k_neg))
    decay = torch.where(adv >= 0, adv.new_tensor(lambda_pos), adv.new_tensor(lambda_neg))
    w = ratio.detach()
    return -(k * w.log() + decay * (1 - w)).exp() * adv * logp


vespo = Algorithm(
    advantage=group_normalize,
    ratio=completion_ratio,
    surrogate=partial(reshaped_importance, k_pos=2.0, lambda_pos=3.0, k_neg=3.0, lambda_neg=2.0),
    aggregate=token_mean,
    needs=frozenset({"groups"}),
)
