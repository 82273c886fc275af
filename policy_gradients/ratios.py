"""How far the policy has moved since it sampled: pi / pi_old."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlhf.kl import MAX_LOG_RATIO


def token_ratio(
    logp: Float[Tensor, "n t"], logp_old: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"]
) -> Float[Tensor, "n t"]:
    """exp(logp - logp_old) for each token; 1 where the mask is False. Clamped before the exp, as in rlhf/kl.py."""
    log_ratio = torch.where(mask, logp - logp_old, 0.0)
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
