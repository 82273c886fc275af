"""Probability ratios pi / pi_old of tokens or completions: how far the policy has moved since it sampled them."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlhf.kl import MAX_LOG_RATIO
from rlhf.tensors import masked_mean


def token_ratio(
    logp: Float[Tensor, "n t"], logp_old: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"]
) -> Float[Tensor, "n t"]:
    """exp(logp - logp_old) for each token; 1 where the mask is False. Clamped before the exp, as in rlhf/kl.py."""
    log_ratio = torch.where(mask, logp - logp_old, 0.0)
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def sequence_ratio(
    logp: Float[Tensor, "n t"], logp_old: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"]
) -> Float[Tensor, "n t"]:
    """exp(mean over the completion's tokens of (logp - logp_old)), at each of its tokens. Zheng et al. 2025, eq. 7.

    The |o|-th root of the completion's likelihood ratio, so that long and short completions are on one scale.
    """
    log_ratio = masked_mean(logp - logp_old, mask)[:, None]
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().expand_as(logp)


def importance_weight(
    logp: Float[Tensor, "n t"],
    logp_sampler: Float[Tensor, "n t"],
    mask: Bool[Tensor, "n t"],
    *,
    correction: str,
    cap: float,
) -> Float[Tensor, "n t"]:
    """The weight exp(logp - logp_sampler) of a token that another distribution sampled, without gradient.

    The sampler's log-probabilities differ from the trainer's where the sampler computes in another precision, cuts the
    distribution (top_p, top_k) or has older weights. `truncate`: min(weight, cap) (TIS: Espeholt et al. 2018; Yao et
    al. 2025). `mask`: a weight above the cap becomes 0, so that a token that was far less likely for the sampler gives
    no gradient (MIS).
    """
    weight = token_ratio(logp.detach(), logp_sampler, mask)
    if correction == "truncate":
        return weight.clamp(max=cap)
    return torch.where(weight <= cap, weight, 0.0)
