"""PyTorch's attention kernel for CPUs, with what joins parts of one softmax.

Attention to keys A and attention to keys B are joined by their log-sums of exponentials:

    out = (1 - s) out_A + s out_B,    s = sigmoid(lse_B - lse_A),    lse = log(exp(lse_A) + exp(lse_B))

The gradient of a part is that of attention to its keys alone, with the joint `out` and `lse`. (Liu et al., "Ring
Attention with Blockwise Transformers for Near-Infinite Context", 2023, arXiv 2310.01889, joins parts likewise.)

Shapes: b rows, h heads of d numbers; n queries, s keys.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def attention(
    query: Float[Tensor, "b h n d"],
    key: Float[Tensor, "b h s d"],
    value: Float[Tensor, "b h s d"],
    *,
    causal: bool = False,
    scale: float | None = None,
) -> tuple[Float[Tensor, "b h n d"], Float[Tensor, "b h n"]]:
    """What each query makes of the values, and the log-sum of the exponentials of its scores.

    Args:
        causal: query i sees the keys up to i.
        scale: of the scores; None: 1 / sqrt(d).
    """
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return kernel(query, key, value, 0.0, causal, scale=scale)


def gradients(
    grad: Float[Tensor, "b h n d"],
    query: Float[Tensor, "b h n d"],
    key: Float[Tensor, "b h s d"],
    value: Float[Tensor, "b h s d"],
    out: Float[Tensor, "b h n d"],
    lse: Float[Tensor, "b h n"],
    *,
    causal: bool = False,
    scale: float | None = None,
) -> tuple[Float[Tensor, "b h n d"], Float[Tensor, "b h s d"], Float[Tensor, "b h s d"]]:
    """Gradients of queries, keys and values, from that of `out`, which is the outcome with the keys of all parts."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    return kernel(grad, query, key, value, out, lse, 0.0, causal, scale=scale)


def join(
    one: Float[Tensor, "*b d"],
    lse_one: Float[Tensor, "*b"],
    other: Float[Tensor, "*b d"],
    lse_other: Float[Tensor, "*b"],
) -> Float[Tensor, "*b d"]:
    """Outcome of attention to the keys of both parts."""
    share = torch.sigmoid(lse_other - lse_one).to(one.dtype)
    return torch.lerp(one, other, share[..., None])
