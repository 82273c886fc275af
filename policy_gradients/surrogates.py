"""What is minimized, per token, so that its gradient is a policy gradient. (logp, ratio, adv) -> loss (n, t).

At ratio 1, on-policy, the gradient of each of them is that of `reinforce`. They differ in what they do with a token
whose probability has moved since it was sampled. adv is (n, 1), or (n, t) with a critic.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def reinforce(
    logp: Float[Tensor, "n t"], _ratio: Float[Tensor, "n t"] | None, adv: Float[Tensor, "n #t"]
) -> Float[Tensor, "n t"]:
    """-adv * logp. Right only for tokens sampled from this very policy: it has no ratio. Williams 1992, section 5."""
    return -adv * logp


def clipped(
    _logp: Float[Tensor, "n t"],
    ratio: Float[Tensor, "n t"],
    adv: Float[Tensor, "n #t"],
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Float[Tensor, "n t"]:
    """-min(ratio * adv, clamp(ratio, 1 - clip_low, 1 + clip_high) * adv). Schulman et al. 2017, eq. 7.

    Written by the sign of adv, where min leaves one bound: a ratio that has risen past 1 + clip_high with adv > 0, or
    fallen past 1 - clip_low with adv < 0, gives no gradient. A token pushed back is never held up, however far it is:
    with adv < 0 the loss has no bound above, unless `dual_clip` > 1 sets one (Ye et al. 2020, arXiv 1912.09729).
    """
    rising, falling = ratio.clamp(max=1 + clip_high), ratio.clamp(1 - clip_low, dual_clip)
    return -torch.where(adv > 0, rising, falling) * adv


def weighted(
    logp: Float[Tensor, "n t"], ratio: Float[Tensor, "n t"], adv: Float[Tensor, "n #t"], *, clip_high: float
) -> Float[Tensor, "n t"]:
    """-sg(min(ratio, 1 + clip_high)) * adv * logp. MiniMax 2025 (CISPO).

    `reinforce` with a capped importance weight that is a constant to the gradient: no token is ever dropped, however
    far it has moved. There is no lower bound, as in the paper's experiments.
    """
    return -ratio.detach().clamp(max=1 + clip_high) * adv * logp


def soft_gate(
    _logp: Float[Tensor, "n t"],
    ratio: Float[Tensor, "n t"],
    adv: Float[Tensor, "n #t"],
    *,
    tau_pos: float,
    tau_neg: float,
) -> Float[Tensor, "n t"]:
    """-(4 / tau) * sigmoid(tau * (ratio - 1)) * adv, tau by the sign of adv. Gao et al. 2025 (SAPO).

    Its slope in the ratio is 4 p (1 - p) with p the sigmoid: 1 at ratio 1, falling smoothly to 0 on both sides, where
    `clipped` falls at once and on one side.
    """
    tau = torch.where(adv > 0, adv.new_tensor(tau_pos), adv.new_tensor(tau_neg))
    return -(4 / tau) * torch.sigmoid(tau * (ratio - 1)) * adv
