"""GDPO: group reward-decoupled normalization policy optimization. Liu et al. (NVIDIA) 2026, arXiv 2601.05242.

GRPO for a reward of several components: each is compared within the group by itself, then they are added.

    adv_k = (r_k - mean(r_k)) / (std(r_k) + 1e-4)          component k, over the g completions of a prompt
    sum_i = sum over k of weight_k * adv_k
    adv_i = (sum_i - mean(sum)) / (std(sum) + 1e-4)        over all completions of the batch
    loss  = GRPO's

Choices here. Weights are on the normalized components, as in the paper; components of weight 0 are measured only. The
rest is GRPO's, without KL. A penalty that is no component (`truncated: penalize`, `kl_in: reward`) is refused: it would
be lost.

What to know. GRPO adds first. Of two binary components, (1, 0) and (0, 1) are then one reward, and after dividing by
the std a group with sums (0, 2) has the advantages of one with (0, 1); here it does not. A rare component weighs as
much as a common one: `weight` no longer says how many points it is worth. With a single component it is GRPO, divided
once more by the std of the batch.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from policy_gradients.advantages import STD_EPSILON, group_normalize
from policy_gradients.algorithm import Algorithm
from policy_gradients.ratios import token_ratio
from policy_gradients.surrogates import clipped
from rlhf.aggregate import sequence_mean


def normalize_apart(components: Float[Tensor, "b g k"], weights: Float[Tensor, " k"]) -> Float[Tensor, "b g"]:
    """The weighted sum of `group_normalize` of each component, over the batch again minus its mean, by its std.

    Two components that disagree cancel; the third completion, with neither, is the worst:

    >>> components = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    >>> normalize_apart(components, torch.tensor([1.0, 1.0]))
    tensor([[ 0.5773,  0.5773, -1.1546]])
    """
    apart = torch.stack([group_normalize(component) for component in components.unbind(-1)], -1)
    total = (apart * weights).sum(-1)
    return (total - total.mean()) / (total.std() + STD_EPSILON)


gdpo = Algorithm(
    advantage=normalize_apart,
    ratio=token_ratio,
    surrogate=partial(clipped, clip_low=0.2, clip_high=0.2),
    aggregate=sequence_mean,
    needs=frozenset({"groups", "components"}),
)
