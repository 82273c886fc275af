"""GSPO: group sequence policy optimization. Zheng et al. (Qwen), 2025, arXiv 2507.18071.

The reward belongs to the whole completion, so the ratio and the clip do too.

    adv_i   = (r_i - mean(r)) / (std(r) + 1e-4)                      over the g completions of a prompt
    ratio_i = exp(mean over tokens of (logp - logp_old))             one for the completion: a geometric mean
    loss    = mean over sequences of -min(ratio * adv, clamp(ratio, 1 - clip_low, 1 + clip_high) * adv)

Choices here. clip_low 3e-4 and clip_high 4e-4, the paper's: a mean over many tokens moves far less than one token's
log-ratio, so GRPO's 0.2 would never clip. How often they bite depends on the length; with short completions, often. No
KL by default.

What to know. A completion is kept or dropped whole, where GRPO drops single tokens by noisy ratios, one sample each.
Token ratios of mixture-of-experts models jump with the routing: there GSPO is stable where GRPO is not. On-policy the
ratio is 1 and its gradient is GRPO's. It needs several optimizer steps on a batch to differ.
"""

from functools import partial

from policy_gradients.advantages import group_normalize
from policy_gradients.algorithm import Algorithm
from policy_gradients.ratios import sequence_ratio
from policy_gradients.surrogates import clipped
from rlhf.aggregate import sequence_mean

gspo = Algorithm(
    advantage=group_normalize,
    ratio=sequence_ratio,
    surrogate=partial(clipped, clip_low=3e-4, clip_high=4e-4),
    aggregate=sequence_mean,
    needs=frozenset({"groups"}),
)
