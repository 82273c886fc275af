"""REINFORCE. Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning",
Machine Learning 8, 1992, section 5 (episodes).

The policy gradient and nothing else: raise the log-probability of each sampled completion in proportion to its reward.

    adv_i = r_i - b          b = running mean of the rewards of earlier batches    (`baseline: none`: b = 0)
    loss  = mean over sequences of sum over tokens of -adv * logp

Choices here. The sum over tokens is the log-probability of the whole completion, so this is the true gradient of the
expected reward, in which a long completion has a larger gradient than a short one. The baseline is an exponential mean
(0.9 of the old, 0.1 of the last batch), not the mean of this batch, which contains the completion itself and would
scale the gradient by (n - 1) / n. The baseline of the first batch is 0.

What to know. There is no ratio, so a batch serves one optimizer step. RLOO differs only in the baseline: it compares a
completion with others of its own prompt, so that an easy prompt does not reinforce every completion.
"""

from functools import partial

from policy_gradients.advantages import minus_baseline
from policy_gradients.algorithm import Algorithm, Penalty
from policy_gradients.surrogates import reinforce as surrogate
from rlhf.aggregate import sequence_sum

reinforce = Algorithm(
    advantage=partial(minus_baseline, baseline="running_mean"),
    ratio=None,
    surrogate=surrogate,
    aggregate=sequence_sum,
    needs=frozenset({"baseline"}),
    kl=Penalty(kl_coef=0.0, kl_in="reward"),
)
