"""SAPO: soft adaptive policy optimization. Gao et al. (Qwen), 2025, arXiv 2511.20347.

A gate that closes smoothly as a token's ratio moves away from 1, in place of a clip.

    adv_i = (r_i - mean(r)) / (std(r) + 1e-4)                                      over the g completions of a prompt
    loss  = mean over sequences of (1/|o_i|) sum over tokens of -(4 / tau) * sigmoid(tau * (ratio - 1)) * adv
            tau = tau_pos where adv > 0, else tau_neg

Choices here. tau_pos 1.0 and tau_neg 1.05, the paper's: the gate of a worse completion closes a little sooner, since
pushing one token down raises thousands of others, most of them nonsense. No KL.

What to know. There is no clip at all. The slope of the loss in the ratio is adv at ratio 1, so on-policy the gradient
is GRPO's; at ratio 2 it is 0.79 adv (tau 1), where GRPO's is 0 for adv > 0. It also falls below 1, where GRPO's clip
leaves a token that moved against its advantage at full weight. The paper shows that for small steps the mean of these
gates over a completion is close to one smooth gate on GSPO's ratio.
"""

from functools import partial

from policy_gradients.advantages import group_normalize
from policy_gradients.algorithm import Algorithm
from policy_gradients.ratios import token_ratio
from policy_gradients.surrogates import soft_gate
from rlhf.aggregate import sequence_mean

sapo = Algorithm(
    advantage=group_normalize,
    ratio=token_ratio,
    surrogate=partial(soft_gate, tau_pos=1.0, tau_neg=1.05),
    aggregate=sequence_mean,
    needs=frozenset({"groups"}),
)
