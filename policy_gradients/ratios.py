"""Probability ratios pi / pi_old of tokens or completions: how far the policy has moved since it sampled them."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlhf.kl import MAX_LOG_RATIO
from rlhf.tensors import masked_mean, masked_sum


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


def completion_ratio(
    logp: Float[Tensor, "n t"], logp_old: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"]
) -> Float[Tensor, "n t"]:
    """exp(sum over the completion's tokens of (logp - logp_old)), at each of its tokens: pi(o) / pi_old(o)."""
    log_ratio = masked_sum(logp - logp_old, mask)[:, None]
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().expand_as(logp)


LEVELS = {"token": token_ratio, "sequence": completion_ratio}


def importance_weight(
    logp: Float[Tensor, "n t"],
    logp_sampler: Float[Tensor, "n t"],
    mask: Bool[Tensor, "n t"],
    *,
    correction: str,
    level: str,
    floor: float,
    cap: float,
) -> Float[Tensor, "n t"]:
    """The weight exp(logp - logp_sampler) of a token that another distribution sampled, without gradient.

    The sampler's log-probabilities differ from the trainer's where the sampler computes in another precision, cuts the
    distribution (top_p, top_k) or has older weights.

    Args:
        correction: `truncate` holds the weight between floor and cap (TIS: Espeholt et al. 2018; Yao et al. 2025).
            `mask`: a weight above the cap or below the floor becomes 0, so that the token gives no gradient (MIS; with
            both bounds IcePop: Ling team 2025, arXiv 2510.18855).
        level: `token`, or `sequence`: the product over the completion, at each of its tokens. That of tokens lets the
            states that the sampler came to pass as the policy's own; the product is exact, of far higher variance.
    """
    weight = LEVELS[level](logp.detach(), logp_sampler, mask)
    if correction == "truncate":
        return weight.clamp(floor, cap)
    return torch.where((weight >= floor) & (weight <= cap), weight, 0.0)


def strayed(
    logp: Float[Tensor, "n t"],
    logp_sampler: Float[Tensor, "n t"],
    adv: Float[Tensor, "n t"],
    mask: Bool[Tensor, "n t"],
    *,
    limit: float,
) -> Bool[Tensor, "n t"]:
    """Where adv < 0 in completions with mean over tokens of (logp_sampler - logp) > limit, nats per token.

    A wrong completion that the policy would hardly write any more teaches little and moves much. DeepSeek-V3.2, 2025,
    arXiv 2512.02556, eq. 9: such tokens are masked out of the loss.
    """
    return (adv < 0) & (masked_mean(logp_sampler - logp.detach(), mask)[:, None] > limit)
