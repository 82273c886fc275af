"""RLOO: REINFORCE leave-one-out. Ahmadian et al., "Back to Basics", 2024, arXiv 2402.14740, after Kool et al. 2019.

Each completion is compared with the others of its prompt: the cheapest baseline that depends on the prompt.

    adv_i = r_i - mean(r_j, j != i)                     over the g completions of a prompt
    loss  = mean over sequences of sum over tokens of -adv * logp

Choices here. The completion is one action, as in the paper: the sum over its tokens, and a KL penalty (the paper's
reward has one, kl_coef 0.03 to 0.1) as k1 summed over the completion and subtracted from its reward; off by default.

What to know. The baseline leaves the completion itself out, so the gradient is unbiased for any g >= 2, and adv is (r_i
- mean) * g / (g - 1). REINFORCE's baseline is one number for all prompts. GRPO also divides by the group's standard
deviation, which weighs prompts by how unequal their rewards are, and has a ratio; RLOO has none, so a batch serves one
optimizer step.
"""

from policy_gradients.advantages import leave_one_out
from policy_gradients.algorithm import Algorithm, Penalty
from policy_gradients.surrogates import reinforce
from rlhf.aggregate import sequence_sum

rloo = Algorithm(
    advantage=leave_one_out,
    ratio=None,
    surrogate=reinforce,
    aggregate=sequence_sum,
    needs=frozenset({"groups"}),
    kl=Penalty(kl_coef=0.0, kl_in="reward"),
)
