"""Surrogates: the loss of each token, whose gradient is a policy gradient. (logp, ratio, adv, mask) -> loss (n, t).

At ratio 1, on-policy, all of them have the gradient of `reinforce`. They differ in what they do with a token whose
probability has moved since it was sampled. adv is (n, 1), or (n, t) with a critic. `mask` is for surrogates that look
at a whole completion; what a surrogate returns where the mask is False is left out of the loss.

The settings of a surrogate are its keyword-only parameters: see policy_gradients/algorithm.py.
"""

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from policy_gradients.algorithm_settings import OFF_POLICY
from rlhf.aggregate import Mask

PerToken = Float[Tensor, "n t"]
Advantage = Float[Tensor, "n #t"]  # of a completion, or of each token

ClipLow = Annotated[float, Field(gt=0, lt=1, description="The ratio is clipped at 1 - this."), OFF_POLICY]
ClipHigh = Annotated[float, Field(gt=0, description="The ratio is clipped at 1 + this."), OFF_POLICY]
DualClip = Annotated[
    float | None, Field(gt=1, description="Bound of the ratio where the advantage is negative."), OFF_POLICY
]
TauPos = Annotated[
    float, Field(gt=0, description="Steepness of SAPO's gate where the advantage is positive."), OFF_POLICY
]
TauNeg = Annotated[
    float, Field(gt=0, description="Steepness of SAPO's gate where the advantage is negative."), OFF_POLICY
]


def reinforce(logp: PerToken, _ratio: PerToken | None, adv: Advantage, _mask: Mask) -> PerToken:
    """-adv * logp. Right only for tokens sampled from this very policy: it has no ratio. Williams 1992, section 5.

    >>> mask = torch.tensor([[True, True]])
    >>> reinforce(torch.tensor([[-1.0, -2.0]]), None, torch.tensor([[0.5]]), mask)
    tensor([[0.5000, 1.0000]])
    """
    return -adv * logp


def clipped(
    _logp: PerToken,
    ratio: PerToken,
    adv: Advantage,
    _mask: Mask,
    *,
    clip_low: ClipLow,
    clip_high: ClipHigh,
    dual_clip: DualClip = None,
) -> PerToken:
    """-min(ratio * adv, clamp(ratio, 1 - clip_low, 1 + clip_high) * adv). Schulman et al. 2017, eq. 7.

    A ratio that has risen past 1 + clip_high with adv > 0, or fallen past 1 - clip_low with adv < 0, gives no gradient.
    A ratio that moved against its advantage is never clipped: with adv < 0 the loss has no upper bound, unless
    `dual_clip` > 1 sets one (Ye et al. 2020, arXiv 1912.09729).

    >>> ratio, mask = torch.tensor([[2.0, 0.5, 1.1]]), torch.tensor([[True, True, True]])
    >>> clipped(ratio.log(), ratio, torch.tensor([[1.0]]), mask, clip_low=0.2, clip_high=0.2)
    tensor([[-1.2000, -0.5000, -1.1000]])
    >>> clipped(ratio.log(), ratio, torch.tensor([[-1.0]]), mask, clip_low=0.2, clip_high=0.2)
    tensor([[2.0000, 0.8000, 1.1000]])
    """
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = -torch.minimum(ratio * adv, bounded * adv)  # Schulman et al. 2017, eq. 7
    if dual_clip is None:
        return loss
    return torch.where(adv < 0, torch.minimum(loss, -dual_clip * adv), loss)


def truncated_importance(
    logp: PerToken, ratio: PerToken, adv: Advantage, _mask: Mask, *, clip_high: ClipHigh
) -> PerToken:
    """-sg(min(ratio, 1 + clip_high)) * adv * logp, sg: constant to the gradient. MiniMax 2025 (CISPO).

    `reinforce` with a capped importance weight: no token is ever dropped, however far it has moved. There is no lower
    bound, as in the paper's experiments.

    >>> ratio, mask = torch.tensor([[2.0, 7.0]]), torch.tensor([[True, True]])
    >>> truncated_importance(torch.tensor([[-1.0, -1.0]]), ratio, torch.tensor([[1.0]]), mask, clip_high=4.0)
    tensor([[2., 5.]])
    """
    return -ratio.detach().clamp(max=1 + clip_high) * adv * logp


def soft_gate(
    _logp: PerToken, ratio: PerToken, adv: Advantage, _mask: Mask, *, tau_pos: TauPos, tau_neg: TauNeg
) -> PerToken:
    """-(4 / tau) * sigmoid(tau * (ratio - 1)) * adv, tau by the sign of adv. Gao et al. 2025 (SAPO).

    Its slope in the ratio is 4 p (1 - p) with p the sigmoid: 1 at ratio 1, falling smoothly to 0 on both sides, where
    the slope of `clipped` falls to 0 at once and on one side.

    >>> ratio, mask = torch.tensor([[1.0, 2.0]]), torch.tensor([[True, True]])
    >>> soft_gate(ratio.log(), ratio, torch.tensor([[1.0]]), mask, tau_pos=1.0, tau_neg=1.05)
    tensor([[-2.0000, -2.9242]])
    """
    tau = torch.where(adv > 0, adv.new_tensor(tau_pos), adv.new_tensor(tau_neg))
    return -(4 / tau) * torch.sigmoid(tau * (ratio - 1)) * adv
