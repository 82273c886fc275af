"""PPO: proximal policy optimization. Schulman et al. 2017, arXiv 1707.06347, eq. 7; for language models, Ziegler et al.
2019 (arXiv 1909.08593) and Ouyang et al. 2022 (arXiv 2203.02155).

A critic predicts, at every token, the reward still to come (v). The advantage of a token is how much better the outcome
was than the critic predicted.

    r_t    = -kl_coef * (logp_t - logp_ref_t), plus the reward of the completion at its last token
    delta  = r_t + gamma * v_(t+1) - v_t                                           v = 0 behind the last token
    adv_t  = sum over k >= 0 of (gamma * gae_lambda)^k * delta_(t+k), whitened over the batch
    loss   = mean over tokens of -min(ratio * adv, clamp(ratio, 1 - clip_low, 1 + clip_high) * adv)
    critic = mean over tokens of max((v - target)^2, (clamp(v, v_old +- value_clip) - target)^2) / 2
             v_old: the value before the update; target: adv (before whitening) + v_old

Choices here. kl_coef 0.02 and gamma 1 as in Ouyang et al.; gae_lambda 0.95, whitening (over every token of the batch)
and value clipping as in Ziegler's code. The critic starts as a copy of the policy, where Ouyang et al. start from the
reward model. Policy and critic each have an optimizer and a gradient norm, so that a large critic loss does not shrink
the policy's step; see `policy_gradients/critic.py`. Every pass cuts the batch into the same mini-batches, unshuffled.
Left out: an entropy bonus, stopping a pass early at a given KL, and bootstrapping behind completions that were cut.

What to know. PPO is the only algorithm here that tells good tokens of a completion from bad ones, at the price of a
second network that must learn first (`critic.warmup_batches`). GRPO puts the mean of the group in the critic's place,
divides by the group's standard deviation, and takes the KL into the loss.
"""

from functools import partial

from policy_gradients.advantages import gae
from policy_gradients.algorithm import Algorithm, Penalty
from policy_gradients.ratios import token_ratio
from policy_gradients.surrogates import clipped
from rlhf.aggregate import token_mean

ppo = Algorithm(
    advantage=partial(gae, gamma=1.0, gae_lambda=0.95),
    ratio=token_ratio,
    surrogate=partial(clipped, clip_low=0.2, clip_high=0.2),
    aggregate=token_mean,
    needs=frozenset({"token_rewards", "critic", "whitened"}),
    kl=Penalty(kl_coef=0.02, kl_in="reward"),
)
