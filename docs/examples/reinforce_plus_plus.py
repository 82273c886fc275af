"""REINFORCE++. Hu et al. 2025, arXiv 2501.03262. A worked example of adding an algorithm: this file, put beside the
others as policy_gradients/algorithms/reinforce_plus_plus.py, and nothing else.

PPO without a critic and without groups: the baseline of a completion is the mean of the whole batch.

    adv_i = (r_i - mean(r)) / (std(r) + 1e-4)                               over all completions of the batch
    loss  = mean over tokens of -min(ratio * adv, clamp(ratio, 1 - clip_low, 1 + clip_high) * adv)

Choices here. The form without groups. A KL penalty is k1 summed over the completion and subtracted from its reward
first, where the paper spreads it over the tokens; it is off by default. What to know: unlike GRPO this works with one
completion per prompt, and does not weigh a prompt by its own std.
"""

from functools import partial

from jaxtyping import Float
from torch import Tensor

from policy_gradients.advantages import STD_EPSILON
from policy_gradients.algorithm import Algorithm, Penalty
from policy_gradients.ratios import token_ratio
from policy_gradients.surrogates import clipped
from rlhf.aggregate import token_mean


def over_batch(reward: Float[Tensor, "b g"]) -> Float[Tensor, "b g"]:
    """(r - mean) / (std + 1e-4) over the whole batch; the rewards are those of all processes."""
    return (reward - reward.mean()) / (reward.std() + STD_EPSILON)


reinforce_plus_plus = Algorithm(
    advantage=over_batch,
    ratio=token_ratio,
    surrogate=partial(clipped, clip_low=0.2, clip_high=0.2),
    aggregate=token_mean,
    kl=Penalty(kl_coef=0.0, kl_in="reward"),
)
