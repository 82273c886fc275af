"""DPPO: divergence proximal policy optimization. Qi et al., "Rethinking the trust region in LLM reinforcement
learning", 2026, arXiv 2602.04879, with the total variation of two outcomes ("binary").

PPO whose clip looks at how much probability has moved, not at by which factor.

    adv_i = (r_i - mean(r)) / (std(r) + 1e-4)                                      over the g completions of a prompt
    keep  = |pi(token) - pi_old(token)| <= max_shift, or the ratio moved against the advantage
    loss  = mean over tokens of -keep * ratio * adv

Choices here. The binary total variation: that of the distributions over "this token" and "any other", which the
sampled token alone tells (the paper also has the binary KL, and both over the likeliest tokens). max_shift 0.2, which
the implementations of verl and TRL take. pi_old is the policy before the update, or the sampler where batches are
stale; the paper's is always the sampler (`importance` covers what lies between). Advantage and aggregation are DAPO's.

What to know. A token of probability 0.001 that has become twice as likely is past PPO's clip, though hardly anything
has changed; one that went from 0.99 to 0.8 is within it, though a fifth of all samples are others now. Here the first
goes on and the second is stopped. On-policy nothing is masked and the gradient is REINFORCE's.
"""

from functools import partial
from typing import Annotated

import torch
from pydantic import Field

from policy_gradients.advantages import group_normalize
from policy_gradients.algorithm import Algorithm
from policy_gradients.algorithm_settings import OFF_POLICY
from policy_gradients.ratios import token_ratio
from policy_gradients.surrogates import Advantage, PerToken
from rlhf.aggregate import Mask, token_mean

MaxShift = Annotated[
    float,
    Field(gt=0, lt=1, description="Probability that a token may gain or lose before it is masked (DPPO)."),
    OFF_POLICY,
]


def divergence_masked(logp: PerToken, ratio: PerToken, adv: Advantage, _mask: Mask, *, max_shift: MaxShift) -> PerToken:
    """-ratio * adv; 0 where the token's probability has moved by more than max_shift in the direction of adv.

    From 0.3 to 0.6, and from 0.1 to 0.2; both have the ratio 2:

    >>> logp, ratio = torch.tensor([[0.6, 0.2]]).log(), torch.tensor([[2.0, 2.0]])
    >>> divergence_masked(logp, ratio, torch.tensor([[1.0]]), torch.tensor([[True, True]]), max_shift=0.2)
    tensor([[-0., -2.]])
    """
    p = logp.detach().exp()
    shift = p - p / ratio.detach()
    return torch.where(shift * adv.sign() > max_shift, 0.0, ratio) * -adv


dppo = Algorithm(
    advantage=group_normalize,
    ratio=token_ratio,
    surrogate=partial(divergence_masked, max_shift=0.2),
    aggregate=token_mean,
    needs=frozenset({"groups"}),
)
