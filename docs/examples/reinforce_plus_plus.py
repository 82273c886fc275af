"""REINFORCE++. Hu et al. 2025, arXiv 2501.03262. A worked example of adding an algorithm: this file, put beside the
others as policy_gradients/algorithms/reinforce_plus_plus.py, and one line in that folder's __init__.py.

PPO without a critic, and without groups: a completion is compared with the whole batch.

    adv_i = (r_i - mean(r)) / (std(r) + 1e-4)                               over all completions of the batch
    loss  = mean over tokens of -min(ratio * adv, clamp(ratio, 1 - clip_low, 1 + clip_high) * adv)

Choices here. The form without groups. A KL penalty is k1 summed over the completion and taken off its reward before all
this; the paper spreads it over the tokens, and is off here by default. What to know: unlike GRPO it works with one
completion a prompt, and does not weigh a prompt by its own std.
"""

from jaxtyping import Float
from torch import Tensor

from policy_gradients.advantages import STD_EPSILON
from policy_gradients.algorithm import Algorithm
from policy_gradients.ratios import token_ratio
from policy_gradients.surrogates import clipped
from rlhf.aggregate import token_mean


def over_batch(reward: Float[Tensor, "b g"]) -> Float[Tensor, "b g"]:
    """(r - mean) / (std + 1e-4) over the whole batch. The loop hands in the rewards of all processes."""
    return (reward - reward.mean()) / (reward.std() + STD_EPSILON)


reinforce_plus_plus = Algorithm(
    advantage=over_batch,
    ratio=token_ratio,
    surrogate=clipped,
    aggregate=token_mean,
    settings={"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None, "kl_coef": 0.0, "kl_in": "reward"},
)
