"""LUSPO: length-unbiased sequence policy optimization. Liu et al. (Meituan), 2026, arXiv 2602.05261.

GSPO without its preference for short completions: the loss of a completion counts as many times as it has tokens.

    adv_i   = (r_i - mean(r)) / (std(r) + 1e-4)                      over the g completions of a prompt
    ratio_i = exp(mean over tokens of (logp - logp_old))             one for the completion: a geometric mean
    loss    = mean over sequences of |o_i| * -min(ratio * adv, clamp(ratio, 1 - clip_low, 1 + clip_high) * adv)

Choices here. clip_low 2e-3 and clip_high 2.5e-3, the paper's, wider than GSPO's 3e-4 and 4e-4. No KL.

What to know. The gradient of GSPO's ratio is that of log pi(o) divided by |o|: of two right completions the shorter one
is pushed harder, and of two wrong ones the shorter is punished harder. Times |o| it is that of log pi(o) itself: so
on-policy, but for the division by std, it is the policy gradient, as RLOO's. Long completions have the longer
gradients: where lengths differ much, they make up most of a step, and of its norm.
"""

from functools import partial

from policy_gradients.advantages import group_normalize
from policy_gradients.algorithm import Algorithm
from policy_gradients.ratios import sequence_ratio
from policy_gradients.surrogates import clipped
from rlhf.aggregate import sequence_sum

luspo = Algorithm(
    advantage=group_normalize,
    ratio=sequence_ratio,
    surrogate=partial(clipped, clip_low=2e-3, clip_high=2.5e-3),
    aggregate=sequence_sum,
    needs=frozenset({"groups"}),
)
