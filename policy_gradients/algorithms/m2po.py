"""M2PO: second-moment trust policy optimization. Zheng et al., "Prosperity before collapse", 2025, arXiv 2510.01161.

GRPO for stale batches: in place of a clip on every token, a bound on all of them together.

    adv_i = (r_i - mean(r)) / (std(r) + 1e-4)                                      over the g completions of a prompt
    keep  = all tokens of the step but those with the largest (log ratio)^2, as few as bring its mean to second_moment
    loss  = mean over tokens of -keep * ratio * adv

Choices here. second_moment 0.04, the paper's. The mean is over the tokens of the whole optimizer step, under the
weights that it starts from: a pass without gradient before each step, so that micro-batches do not matter. The tokens
that are left out stay in the denominator. All tokens may be left out, whichever way they moved, as in AReaL's
implementation. `staleness` is what it is for; configs/m2po.yaml sets 4.

What to know. PPO's clip bounds each ratio by itself: on a stale batch many tokens have moved past 0.2, most of them
those from which there is most to learn, and all are stopped. The mean of (log ratio)^2 bounds the chi-square distance
of the two policies, and moves with a few outliers: only these are left out. On-policy nothing is.
"""

from policy_gradients.advantages import group_normalize
from policy_gradients.algorithm import Algorithm, Extra
from policy_gradients.ratios import token_ratio
from policy_gradients.surrogates import Advantage, PerToken
from rlhf.aggregate import Mask, token_mean


def unclipped(_logp: PerToken, ratio: PerToken, adv: Advantage, _mask: Mask) -> PerToken:
    """-ratio * adv, for a ratio that is bounded elsewhere."""
    return -ratio * adv


m2po = Algorithm(
    advantage=group_normalize,
    ratio=token_ratio,
    surrogate=unclipped,
    aggregate=token_mean,
    needs=frozenset({"groups"}),
    extra=Extra(second_moment=0.04),
)
