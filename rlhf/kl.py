"""Estimators of KL(pi || ref) from samples of pi. J. Schulman, "Approximating KL divergence" (2020).

All three take log-probabilities in nats of tokens that **pi sampled**, and use r = ref / pi, reference over policy:
log r = logp_ref - logp. The inverse ratio gives the same value at r = 1 but estimates something else: with it, k3
estimates chi-square minus KL, and explodes when the two policies diverge.

Shapes: n sequences, t tokens.

    >>> logp, logp_ref = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]])
    >>> k1(logp, logp_ref)
    tensor([[ 0.5000, -1.0000]])
    >>> k2(logp, logp_ref)
    tensor([[0.1250, 0.5000]])
    >>> k3(logp, logp_ref)
    tensor([[0.1065, 0.7183]])
"""

import torch
from jaxtyping import Float
from torch import Tensor

# exp(20) is 5e8: far beyond any useful penalty, and far from overflow. Clamping the log-ratio before the exp gives a
# gradient of exactly 0 there; clamping the result would give inf * 0 = nan.
MAX_LOG_RATIO = 20.0


def _log_r(logp: Float[Tensor, "n t"], logp_ref: Float[Tensor, "n t"]) -> Float[Tensor, "n t"]:
    return (logp_ref - logp).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def k1(logp: Float[Tensor, "n t"], logp_ref: Float[Tensor, "n t"]) -> Float[Tensor, "n t"]:
    """-log r, in nats. Unbiased, of high variance, may be negative.

    Use it in the reward. As a loss term it has no effect: its expected gradient under pi is zero.
    """
    return -_log_r(logp, logp_ref)


def k2(logp: Float[Tensor, "n t"], logp_ref: Float[Tensor, "n t"]) -> Float[Tensor, "n t"]:
    """(log r)^2 / 2, in nats. Biased as a value, but its expected gradient under pi is that of KL(pi || ref)."""
    return _log_r(logp, logp_ref).square() / 2


def k3(logp: Float[Tensor, "n t"], logp_ref: Float[Tensor, "n t"]) -> Float[Tensor, "n t"]:
    """r - 1 - log r, in nats. Unbiased, never negative; the loss term of GRPO as published.

    expm1 keeps the digits that exp(x) - 1 - x loses when the two policies are close.
    """
    log_r = _log_r(logp, logp_ref)
    return torch.expm1(log_r) - log_r


estimators = {"k1": k1, "k2": k2, "k3": k3}
