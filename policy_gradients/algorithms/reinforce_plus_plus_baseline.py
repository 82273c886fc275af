"""REINFORCE++ with baseline. Hu et al. 2025, arXiv 2501.03262: the variant for several completions of a prompt.

The group gives the mean, the batch the standard deviation.

    adv_i = r_i - mean(r) over the g completions of a prompt, whitened over all tokens of the batch
    loss  = mean over tokens of -min(ratio * adv, clamp(ratio, 1 - clip_low, 1 + clip_high) * adv) + kl_coef * k2

Choices here. k2 in the loss, as in the paper, since its gradient is that of KL(pi || ref) (`rlhf/kl.py`); off by
default. Whitening subtracts the mean over tokens once more, which is not 0 where lengths differ.

What to know. GRPO divides by the std of the group, so that a prompt solved once in eight times weighs as much as one
solved four times; here all prompts share one std, and a group of equal rewards still has (nearly) no advantage. Dr.
GRPO does not divide at all: this is its advantage in a scale that stays the same as rewards become rarer.
"""

from functools import partial

from policy_gradients.advantages import center
from policy_gradients.algorithm import Algorithm, Penalty
from policy_gradients.ratios import token_ratio
from policy_gradients.surrogates import clipped
from rlhf.aggregate import token_mean

reinforce_plus_plus_baseline = Algorithm(
    advantage=center,
    ratio=token_ratio,
    surrogate=partial(clipped, clip_low=0.2, clip_high=0.2),
    aggregate=token_mean,
    needs=frozenset({"groups", "whitened"}),
    kl=Penalty(kl_coef=0.0, kl_in="loss", kl_estimator="k2"),
)
