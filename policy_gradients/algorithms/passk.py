"""Pass@k training. Chen et al. 2025, arXiv 2508.10751, section 2.4.

Maximize the probability that one of k completions is right, not that one is: k attempts need not all be alike.

    fail  = C(w, k) / C(g, k)                   of all choices of k out of g completions, those without a right one
    adv_i = fail / std                          of a right completion: any choice with it succeeds
    adv_i = (fail - C(w - 1, k - 1) / C(g - 1, k - 1)) / std        of a wrong one;     std = sqrt(fail (1 - fail))
    loss  = mean over sequences of (1/|o_i|) sum over tokens of
            -min(ratio * adv, clamp(ratio, 1 - clip_low, 1 + clip_high) * adv)

w of the g completions are wrong; 1 - fail is an unbiased estimate of pass@k. An advantage is the mean over all choices
with the completion, less that over all: what drawing choices at random comes to, without drawing any.

Choices here. pass_k 4, as in the paper's main runs. Everything else is GRPO's, as there; no KL. Success is exact: other
rewards would need the best of k, and are refused. 0 where fewer than k completions are wrong, or all are.

What to know. Before it is divided by std, the mean of adv * grad logp over the group has the expectation
(1/k) (1 - k/g) times the gradient of 1 - (1 - p)^k, which is k (1 - p)^(k - 1) dp: a prompt that is solved more often
than not hardly counts any more. With k = 1 it is GRPO with the std of all g; MaxRL's log p sums pass@k / k over all k.
"""

from functools import partial
from math import comb
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from policy_gradients.advantages import refuse_partial
from policy_gradients.algorithm import Algorithm
from policy_gradients.ratios import token_ratio
from policy_gradients.surrogates import clipped
from rlhf.aggregate import sequence_mean

PassK = Annotated[int, Field(ge=1, description="Completions of which one at least should be right (pass@k training).")]


def pass_at_k(reward: Float[Tensor, "b g"], *, pass_k: PassK) -> Float[Tensor, "b g"]:
    """How much better choices of k completions are that contain this one, in standard deviations of all choices.

    One of four is right: half of the pairs have it. Of the three pairs with a given wrong one, one has it.

    >>> pass_at_k(torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]]), pass_k=2)
    tensor([[ 1.0000, -0.3333, -0.3333, -0.3333],
            [ 0.0000,  0.0000,  0.0000,  0.0000]])

    Raises: ValueError: a reward is neither 0 nor 1.
    """
    refuse_partial(reward)
    g, k = reward.shape[1], pass_k
    wrong = (reward == 0).sum(1, keepdim=True)
    # By the number of wrong ones: the share of choices that fail, and of those with a given wrong one.
    fail = reward.new_tensor([comb(w, k) / comb(g, k) for w in range(g + 1)])[wrong]
    fail_with = reward.new_tensor([0.0, *(comb(w, k - 1) / comb(g - 1, k - 1) for w in range(g))])[wrong]
    above = torch.where(reward == 1, fail, fail - fail_with)
    return torch.where((fail > 0) & (fail < 1), above / (fail * (1 - fail)).sqrt(), 0.0)


passk = Algorithm(
    advantage=partial(pass_at_k, pass_k=4),
    ratio=token_ratio,
    surrogate=partial(clipped, clip_low=0.2, clip_high=0.2),
    aggregate=sequence_mean,
    needs=frozenset({"groups", "binary"}),
)
