"""The gradient of completions that another distribution than the policy sampled, as sums over all completions."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from claims.computed.enumerated import Enumerated
from claims.computed.exact_noise import scores
from claims.computed.kl_gradients import ANOTHER, at_distance
from policy_gradients.ratios import importance_weight
from rlhf.tensors import masked_sum

BATCH = 64  # completions
NO_CAP = 1e9

# Arguments of `importance_weight`, with the caps that the trainer's page gives for each.
CORRECTIONS: dict[str, dict[str, Any]] = {
    "none": {"correction": "truncate", "level": "token", "floor": 1.0, "cap": 1.0},
    "TIS": {"correction": "truncate", "level": "token", "floor": 0.0, "cap": 2.0},
    "MIS": {"correction": "mask", "level": "token", "floor": 0.0, "cap": 2.0},
    "IcePop": {"correction": "mask", "level": "token", "floor": 0.5, "cap": 5.0},
    "TIS of completions": {"correction": "truncate", "level": "sequence", "floor": 0.0, "cap": 2.0},
    "MIS of completions": {"correction": "mask", "level": "sequence", "floor": 0.0, "cap": 2.0},
    "product": {"correction": "truncate", "level": "sequence", "floor": 0.0, "cap": NO_CAP},
}


def colder(policy: Enumerated, temperature: float) -> Float[Tensor, "s v"]:
    """The logits of a sampler at another temperature."""
    return policy.theta.detach() / temperature


def likeliest(policy: Enumerated, top_p: float) -> Float[Tensor, "s v"]:
    """The logits of a sampler that keeps the likeliest tokens of each state, as few as have this mass."""
    table = policy.theta.detach().log_softmax(-1)
    ranked, order = table.sort(-1, descending=True)
    before = ranked.exp().cumsum(-1) - ranked.exp()
    kept = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before < top_p)
    return table.masked_fill(~kept, -torch.inf)


def elsewhere(policy: Enumerated, seed: int, distance: float) -> Float[Tensor, "s v"]:
    """The logits of a sampler whose weights are others: KL(policy || sampler) is `distance`, in a random direction."""
    return at_distance(policy, Enumerated(seed + ANOTHER).theta.detach(), distance)


def errors(policy: Enumerated, theta_sampler: Float[Tensor, "s v"]) -> dict[str, dict[str, float]]:
    """What the gradient is worth with each correction; the reward is that of the policy, less the sampler's mean.

    bias     |E g - exact| / |exact|, exact: the gradient of the expected reward
    error    sqrt(E |g - exact|^2) / |exact| of the mean gradient of a batch
    """
    exact = policy.gradient(policy.probability() @ policy.reward).flatten()
    logp = policy.logp().detach()
    logp_sampler = policy.logp_under(theta_sampler)
    chance = masked_sum(logp_sampler, policy.mask).exp()
    adv = policy.reward - chance @ policy.reward
    found = {}
    for name, correction in CORRECTIONS.items():
        weight = importance_weight(logp, logp_sampler, policy.mask, **correction)
        each = ((weight * policy.mask * adv[:, None])[..., None] * scores(policy)).sum(1)
        mean = chance @ each
        variance = chance @ (each - mean).square().sum(1)
        squared_bias = (mean - exact).square().sum()
        found[name] = {
            "bias": float(squared_bias.sqrt() / exact.norm()),
            "error": float((squared_bias + variance / BATCH).sqrt() / exact.norm()),
        }
    return found
