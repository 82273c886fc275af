"""REINFORCE++: stabilizing critic-free policy optimization with global normalization. Hu et al. 2025, arXiv 2501.03262.

PPO without a critic: what comes after a token, compared with the whole batch.

    r_t   = -kl_coef * (logp_t - logp_ref_t), plus the reward of the completion at its last token
    adv_t = sum over k >= 0 of r_(t+k), whitened over all tokens of the batch: (x - mean) / std
    loss  = mean over tokens of -min(ratio * adv, clamp(ratio, 1 - clip_low, 1 + clip_high) * adv)

Choices here. The penalty is k1 of each token, charged to the tokens before it, as in the paper; it is off by default.
The statistics are over tokens, as in the authors' code, so a long completion counts by its length. gamma 1 and a clip
of 0.2 as PPO's.

What to know. It works with one completion of a prompt: no baseline depends on the prompt, so an easy prompt reinforces
whatever was said to it, less the mean of all. The mean and the std contain the completion itself; their bias falls with
the size of the batch, where that of GRPO's std falls with the size of a group. With several completions of a prompt,
`reinforce_plus_plus_baseline` subtracts their mean first. It is `gae` with gae_lambda 1 and a critic that says 0.
"""

from functools import partial

from policy_gradients.advantages import reward_to_go
from policy_gradients.algorithm import Algorithm, Penalty
from policy_gradients.ratios import token_ratio
from policy_gradients.surrogates import clipped
from rlhf.aggregate import token_mean

reinforce_plus_plus = Algorithm(
    advantage=partial(reward_to_go, gamma=1.0),
    ratio=token_ratio,
    surrogate=partial(clipped, clip_low=0.2, clip_high=0.2),
    aggregate=token_mean,
    needs=frozenset({"token_rewards", "whitened"}),
    kl=Penalty(kl_coef=0.0, kl_in="reward"),
)
