"""Estimators of KL(pi || ref) from samples of pi. J. Schulman, "Approximating KL divergence" (2020).

All three take log-probabilities of tokens that **pi sampled** and use log_r = logp_ref - logp, reference over policy.
The other direction passes every test at log_r = 0 and estimates something else: with pi/ref in its place,
k3 estimates chi-square minus KL and explodes when the two policies part.
"""

import torch
from jaxtyping import Float
from torch import Tensor

# exp(20) is 5e8: far past any use as a penalty, and far from overflow. Clamping the log-ratio, before the exp, leaves a
# gradient of exactly 0 there; clamping the result would leave inf * 0 = nan.
MAX_LOG_RATIO = 20.0


def _log_r(logp: Float[Tensor, "n t"], logp_ref: Float[Tensor, "n t"]) -> Float[Tensor, "n t"]:
    return (logp_ref - logp).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def k1(logp: Float[Tensor, "n t"], logp_ref: Float[Tensor, "n t"]) -> Float[Tensor, "n t"]:
    """-log_r, in nats. Unbiased, high variance, may be negative.

    The one to subtract from a reward. As a loss term it is useless: its expected gradient under pi is zero.
    """
    return -_log_r(logp, logp_ref)


def k2(logp: Float[Tensor, "n t"], logp_ref: Float[Tensor, "n t"]) -> Float[Tensor, "n t"]:
    """log_r^2 / 2. Biased as a value, but its expected gradient under pi is that of KL(pi || ref)."""
    return _log_r(logp, logp_ref).square() / 2


def k3(logp: Float[Tensor, "n t"], logp_ref: Float[Tensor, "n t"]) -> Float[Tensor, "n t"]:
    """r - 1 - log r. Unbiased, never negative; the loss term of GRPO as published.

    expm1 keeps the digits that exp(x) - 1 - x would lose for policies close to each other.
    """
    log_r = _log_r(logp, logp_ref)
    return torch.expm1(log_r) - log_r


estimators = {"k1": k1, "k2": k2, "k3": k3}
