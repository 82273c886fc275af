"""MaxRL: maximum likelihood reinforcement learning. Tajwar et al. 2026, arXiv 2602.02710.

Maximize the log of the probability of success, not the probability: what supervised learning would do, had it the
right answers.

    adv_i = (r_i - mean(r)) / mean(r), 0 where no completion succeeded         r is 0 or 1; mean(r) estimates p
    loss  = mean over sequences of (1/|o_i|) sum over tokens of -adv * logp

Since d log p = d p / p, rarely solved prompts weigh more: by up to 1 / p. In expansion, log p = -sum_k (1 - p)^k / k;
plain reinforcement learning stops at k = 1. With g completions, the mean over the successes has the gradient of the
first g terms; minus the mean over all, and 0 where none succeeded, it has that of the first g - 1. More samples come
closer to log p.

Choices here. The mean over tokens, so that long completions do not drown short ones; the derivation is for the sum
(`--aggregation sequence_sum`). Success is exact: other rewards, penalties or a KL in the reward would make r / mean(r)
meaningless and are refused. There is no ratio, so a batch serves one optimizer step.

What to know. GRPO divides by the standard deviation sqrt(p (1 - p)), so hard and easy prompts have larger weights; with
MaxRL only hard ones do. With g = 2 its advantage is RLOO's; the losses then differ in the mean over tokens alone.
"""

from policy_gradients.advantages import mean_normalize
from policy_gradients.algorithm import Algorithm
from policy_gradients.surrogates import reinforce
from rlhf.aggregate import sequence_mean

maxrl = Algorithm(
    advantage=mean_normalize,
    ratio=None,
    surrogate=reinforce,
    aggregate=sequence_mean,
    needs=frozenset({"groups", "binary"}),
)
