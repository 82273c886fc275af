"""GRPO: group relative policy optimization. Shao et al., "DeepSeekMath", 2024, arXiv 2402.03300, eq. 3 and 4.

PPO without a critic: the baseline is the mean reward of the completions of the same prompt.

    adv_i  = (r_i - mean(r)) / (std(r) + 1e-4)                   over the g completions of a prompt
    ratio  = pi(token) / pi_old(token)
    loss   = mean over sequences of (1/|o_i|) sum over tokens of
                 -min(ratio * adv, clamp(ratio, 1 - clip_low, 1 + clip_high) * adv) + kl_coef * k3
    k3     = ref/pi - 1 - log(ref/pi) of the token               estimates KL(pi || ref)

Choices here. The standard deviation divides by g - 1; a group of equal rewards has advantage 0 exactly. With one
optimizer step per batch the ratio is 1 and the clip does nothing. The paper's kl_coef is 0.04; configs/grpo.yaml sets
0, as most later work does, and then no reference model is loaded. As a loss, k3 has the value of KL(pi || ref) but, on
policy, the gradient of KL(ref || pi); `kl_estimator: k2` has the gradient of KL(pi || ref).

What to know. Dividing by |o_i| makes each token of a wrong answer cost less the longer the answer is. Dividing by std
gives the largest weights to prompts that are almost always or almost never solved. Dr. GRPO removes both divisions.
"""

from functools import partial

from policy_gradients.advantages import group_normalize
from policy_gradients.algorithm import Algorithm, Penalty
from policy_gradients.ratios import token_ratio
from policy_gradients.surrogates import clipped
from rlhf.aggregate import sequence_mean

grpo = Algorithm(
    advantage=group_normalize,
    ratio=token_ratio,
    surrogate=partial(clipped, clip_low=0.2, clip_high=0.2),
    aggregate=sequence_mean,
    needs=frozenset({"groups"}),
    kl=Penalty(kl_coef=0.04, kl_in="loss"),
)
