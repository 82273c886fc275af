"""What is minimized, per token, so that its gradient is a policy gradient. (logp, ratio, adv) -> loss (n, t)."""

import torch
from jaxtyping import Float
from torch import Tensor


def reinforce(
    logp: Float[Tensor, "n t"], _ratio: Float[Tensor, "n t"] | None, adv: Float[Tensor, "n 1"]
) -> Float[Tensor, "n t"]:
    """-adv * logp. Right only for tokens sampled from this very policy: it has no ratio. Williams 1992, eq. 4 ff."""
    return -adv * logp


def clipped(
    _logp: Float[Tensor, "n t"],
    ratio: Float[Tensor, "n t"],
    adv: Float[Tensor, "n 1"],
    *,
    clip_low: float,
    clip_high: float,
) -> Float[Tensor, "n t"]:
    """-min(ratio * adv, clamp(ratio, 1 - clip_low, 1 + clip_high) * adv). Schulman et al. 2017, eq. 7.

    The gradient is that of `reinforce` at ratio 1, and 0 for a token that has moved past the clip in the direction its
    advantage pushes. A token pushed back is never held up.
    """
    return -torch.minimum(ratio * adv, ratio.clamp(1 - clip_low, 1 + clip_high) * adv)
