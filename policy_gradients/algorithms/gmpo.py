"""GMPO: geometric-mean policy optimization. Zhao et al. 2025, arXiv 2507.20673.

GRPO with the geometric mean of a completion's token ratios in place of the arithmetic one: a single extreme ratio moves
it far less.

    adv_i = (r_i - mean(r)) / (std(r) + 1e-4)                                      over the g completions of a prompt
    d_t   = min(log ratio_t, log_clip) where adv > 0, max(log ratio_t, -log_clip) where adv < 0        log_clip = 0.4
    loss  = mean over sequences of -exp(mean over tokens of d_t) * adv

Choices here. The clip works on each token, in log space and on one side: only a token that has moved with its advantage
is clipped, as in the authors' code, whose lower bound never binds under the minimum. The range of the ratio is thus
(e^-0.4, e^0.4), wider than GRPO's (0.8, 1.2). The root is over the tokens that count. No KL, as in the paper's main
runs. The standard deviation is that of the group with g - 1, as everywhere here.

What to know. GSPO has the same geometric mean but clips it as a whole, so that a completion is kept or dropped; here
single tokens stop and the others go on. The gradient of a token that is not held is adv * exp(mean d) / |o_i|: all
tokens of a completion have the same weight, where GRPO weighs each by its own ratio. On-policy it is GRPO's.
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
from rlhf.aggregate import Mask, sequence_mean
from rlhf.tensors import masked_mean

LogClip = Annotated[
    float, Field(gt=0, description="Nats that a token's log-ratio may move with its advantage (GMPO)."), OFF_POLICY
]


def geometric_mean(logp: PerToken, ratio: PerToken, adv: Advantage, mask: Mask, *, log_clip: LogClip) -> PerToken:
    """-exp(mean over tokens of d) * adv, at each token of a completion; d = sign * min(sign * log ratio, log_clip).

    Two tokens with ratios e and 1: d is 0.4 and 0, so their geometric mean is e^0.2 = 1.2214.

    >>> ratio, mask = torch.tensor([[2.7183, 1.0]]), torch.tensor([[True, True]])
    >>> geometric_mean(ratio.log(), ratio, torch.tensor([[1.0]]), mask, log_clip=0.4)
    tensor([[-1.2214, -1.2214]])
    """
    sign = adv.sign()
    d = sign * torch.clamp(sign * ratio.log(), max=log_clip)
    return (-torch.exp(masked_mean(d, mask))[:, None] * adv).expand_as(logp)


gmpo = Algorithm(
    advantage=group_normalize,
    ratio=token_ratio,
    surrogate=partial(geometric_mean, log_clip=0.4),
    aggregate=sequence_mean,
    needs=frozenset({"groups"}),
)
