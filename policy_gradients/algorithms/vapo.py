"""VAPO: value-based augmented proximal policy optimization. Yue et al. (ByteDance) 2025, arXiv 2504.05118.

PPO repaired for completions that are long and of unequal length.

    lambda = 1 - 1 / (length_alpha * length)               of each completion: a longer one looks further ahead
    adv_t  = delta_t + gamma * lambda * adv_(t+1), whitened over the batch                      as PPO's
    target = sum over k >= 0 of r_(t+k)                    of the critic: lambda 1, whatever that of the advantages
    loss   = mean over all tokens of -min(ratio * adv, clamp(ratio, 1 - clip_low, 1 + clip_high) * adv)
             + nll_coef * mean over the tokens of right completions of -logp

Choices here. length_alpha 0.05, clip_high 0.28, nll_coef 0.1 and gamma 1 are the paper's; lambda is 0 where a
completion has less than 1 / length_alpha tokens. Value pretraining is `critic.warmup_batches` (50 steps in the paper),
several completions of a prompt are group_size. Whitening is PPO's here. No KL, as in the paper.

What to know. With one lambda, the reward of a long completion reaches its first tokens as lambda^length: with 0.95
and 100 tokens, 0.6 % of it. Here the sum of the weights, 1 / (1 - lambda), is proportional to the length. A target of
lambda 1 teaches the critic what happened, not what it believed. The last term imitates what was right, which the
policy gradient does as well, with a weight that falls to 0 as the critic comes to expect it.
"""

from functools import partial
from typing import Annotated

from pydantic import Field

from policy_gradients.advantages import Gamma, gae_of
from policy_gradients.algorithm import Algorithm, Extra
from policy_gradients.ratios import token_ratio
from policy_gradients.surrogates import PerToken, clipped
from rlhf.aggregate import Mask, token_mean

LengthAlpha = Annotated[
    float, Field(gt=0, description="lambda = 1 - 1 / (this * length): larger trusts the critic less (VAPO).")
]


def gae_by_length(
    reward: PerToken, value: PerToken, mask: Mask, *, gamma: Gamma, length_alpha: LengthAlpha
) -> PerToken:
    """`gae` with gae_lambda = max(0, 1 - 1 / (length_alpha * length)) of each completion.

    Of 2 tokens, with length_alpha 1, lambda is 1/2: the first gets its own surprise and half of the second's.

    >>> reward, value = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.25, 0.5]])
    >>> gae_by_length(reward, value, torch.tensor([[True, True]]), gamma=1.0, length_alpha=1.0)
    tensor([[0.5000, 0.5000]])
    """
    gae_lambda = (1 - 1 / (length_alpha * mask.sum(1))).clamp(min=0)  # 0 of a completion without a token, too
    return gae_of(reward, value, mask, gamma=gamma, gae_lambda=gae_lambda)


vapo = Algorithm(
    advantage=partial(gae_by_length, gamma=1.0, length_alpha=0.05),
    ratio=token_ratio,
    surrogate=partial(clipped, clip_low=0.2, clip_high=0.28),
    aggregate=token_mean,
    needs=frozenset({"token_rewards", "critic", "whitened", "returns"}),
    extra=Extra(nll_coef=0.1),
)
