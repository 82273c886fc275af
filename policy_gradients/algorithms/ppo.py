"""PPO: proximal policy optimization. Schulman et al. 2017, arXiv 1707.06347, eq. 7; for language models, Ziegler et al.
2019 (arXiv 1909.08593) and Ouyang et al. 2022 (arXiv 2203.02155).

A critic guesses, at every token, the reward still to come; a token is as good as what came was better than the guess.

    r_t    = -kl_coef * k1_t, plus the reward of the completion at its last token
    delta  = r_t + gamma * v_(t+1) - v_t                                           v = 0 behind the last token
    adv_t  = sum over k >= 0 of (gamma * gae_lambda)^k * delta_(t+k), whitened over the batch
    loss   = mean over tokens of -min(ratio * adv, clamp(ratio, 1 - clip_low, 1 + clip_high) * adv)
    critic = mean over tokens of max((v - target)^2, (clamp(v, v_old +- value_clip) - target)^2) / 2

Choices here. gamma 1 and gae_lambda 0.95 as in Ouyang et al. The target is adv (before whitening) + v_old. Whitening
takes mean and standard deviation over every token of the batch. Policy and critic have an optimizer and a gradient norm
each, so that a large critic loss does not shrink the policy's step; see `policy_gradients/critic.py`. Left out: an
entropy bonus, and stopping a pass early at a given KL.

What to know. The only one here that tells good tokens from bad ones within a completion, at the price of a second
network that must be learned first (`critic.warmup_batches`). GRPO is PPO with the group's mean in the critic's place.
"""

from policy_gradients.advantages import gae
from policy_gradients.algorithm import Algorithm
from policy_gradients.ratios import token_ratio
from policy_gradients.surrogates import clipped
from rlhf.aggregate import token_mean

ppo = Algorithm(
    advantage=gae,
    ratio=token_ratio,
    surrogate=clipped,
    aggregate=token_mean,
    needs=frozenset({"critic"}),
    settings={
        "gamma": 1.0,
        "gae_lambda": 0.95,
        "clip_low": 0.2,
        "clip_high": 0.2,
        "dual_clip": None,
        "kl_coef": 0.02,
        "kl_in": "reward",
        "kl_estimator": "k1",
    },
)
