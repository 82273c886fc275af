"""Dr. GRPO: GRPO done right. Liu et al., "Understanding R1-Zero-like training", 2025, arXiv 2503.20783.

GRPO without its two divisions, each of which turns the policy gradient into something else.

    adv_i = r_i - mean(r)                                                          over the g completions of a prompt
    loss  = sum over all tokens of -min(ratio * adv, clamp(ratio, 1 - clip_low, 1 + clip_high) * adv)
            / (sequences * max_new_tokens)

Choices here. The sum is divided by a constant (the longest a completion may be), as in the authors' code; any constant
gives the same direction, not the same size: lr and max_grad_norm do not carry over from RLOO. Removing only the
standard deviation would keep the length bias, so both are removed.

What to know. GRPO's 1/|o_i| makes each token of a long wrong completion count less, so wrong answers grow longer; its
1/std gives the largest weights to prompts that are almost always or almost never solved. On-policy, this is RLOO's
gradient times (g - 1) / (g * max_new_tokens); unlike RLOO it has a ratio and a clip, so a batch can serve several
steps.
"""

from functools import partial

from policy_gradients.advantages import center
from policy_gradients.algorithm import Algorithm
from policy_gradients.ratios import token_ratio
from policy_gradients.surrogates import clipped
from rlhf.aggregate import fixed_length

drgrpo = Algorithm(
    advantage=center,
    ratio=token_ratio,
    surrogate=partial(clipped, clip_low=0.2, clip_high=0.2),
    aggregate=fixed_length,
    needs=frozenset({"groups"}),
)
