"""CISPO: clipped importance-sampling-weight policy optimization. MiniMax-M1, 2025, arXiv 2506.13585.

Clip the weight, not the token: a token that has moved far still gives a gradient, with a bounded weight.

    adv_i = (r_i - mean(r)) / (std(r) + 1e-4)                                      over the g completions of a prompt
    loss  = mean over tokens of -sg(min(ratio, 1 + clip_high)) * adv * logp         (sg: constant to the gradient)

Choices here. Only an upper bound, as in the paper's experiments, which do not give its value: clip_high 4.0 caps the
weight at 5, which Khatri et al. (2025, arXiv 2510.13786) found good and not sensitive from 4 to 8. (TRL's epsilon_high
is the cap itself, ours the distance from 1, as for every other algorithm here.) The mean is over the tokens of the
whole optimizer step; the paper writes it for one prompt. Left out: the paper also resamples groups and penalizes length
as DAPO does (`resample_rounds`, `truncated: penalize`).

What to know. PPO's clip drops a token's gradient once it has moved, and the first to move are rare ones such as
"however" and "wait", which open new lines of thought; on later passes over the batch they give no gradient. Here the
gradient is always adv * weight * grad logp: REINFORCE with a truncated importance weight. On-policy, at weight 1, it is
that of DAPO's loss.
"""

from functools import partial

from policy_gradients.advantages import group_normalize
from policy_gradients.algorithm import Algorithm
from policy_gradients.ratios import token_ratio
from policy_gradients.surrogates import truncated_importance
from rlhf.aggregate import token_mean

cispo = Algorithm(
    advantage=group_normalize,
    ratio=token_ratio,
    surrogate=partial(truncated_importance, clip_high=4.0),
    aggregate=token_mean,
    needs=frozenset({"groups"}),
)
