"""Attention of prompts and their completions on a CPU, branch by branch, without the mask of shared rows.

         p p p a a b b b      a query's row, a key's column
      p  P                    P     the prompt to itself, causal
      p  P P
      p  P P P
      a  C C C A              C     all completions to all of the prompt
      a  C C C A A            A, B  a completion to itself, causal
      b  C C C . . B
      b  C C C . . B B
      b  C C C . . B B B

Under a mask the places that nothing sees are computed too: of a prompt of 110 tokens with 8 completions of 250, nine
tenths. Here a completion attends to its prompt and to itself in two parts, joined as in rlhf/cpu/attention.py.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf.cpu.attention import attention, gradients, join
from rlhf.models.packed import precision

type Bounds = Sequence[int]  # where a prompt starts, where it ends, and where each of its completions ends


def branch_attention(
    query: Float[Tensor, "1 h n d"],
    key: Float[Tensor, "1 k n d"],
    value: Float[Tensor, "1 k n d"],
    groups: Sequence[Bounds],
    scale: float | None,
) -> Float[Tensor, "1 h n d"]:
    """What each of n tokens makes of the values of its prompt and of its completion, up to itself.

    Args:
        groups: the tokens of each prompt and its completions, one group behind the other; n in all.
        scale: of the scores; None: 1 / sqrt(d).
    """
    half = precision()  # which PyTorch's own attention takes under autocast too
    heads = [x if half is None else x.to(half) for x in (query, key, value)]
    heads = [x if x.stride(-1) == 1 else x.contiguous() for x in heads]  # the kernel takes it for granted
    return _BranchAttention.apply(*heads, groups, scale)


class _BranchAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, groups: Sequence[Bounds], scale: float | None):
        _, h, n, d = query.shape
        keys, values = _for_each_query(key, h), _for_each_query(value, h)
        out = query.new_empty(1, n, h, d).transpose(1, 2)
        lse = query.new_empty(1, n, h, dtype=torch.promote_types(query.dtype, torch.float32)).transpose(1, 2)

        def attend(queries: slice, to: slice, *, causal: bool) -> tuple[Tensor, Tensor]:
            return attention(query[:, :, queries], keys[:, :, to], values[:, :, to], causal=causal, scale=scale)

        for prompt, completions, branches in map(_slices, groups):
            for branch in (prompt, *branches):
                out[:, :, branch], lse[:, :, branch] = attend(branch, branch, causal=True)
            own, lse_own = out[:, :, completions], lse[:, :, completions]
            of_prompt, lse_of_prompt = attend(completions, prompt, causal=False)
            out[:, :, completions] = join(own, lse_own, of_prompt, lse_of_prompt)
            lse[:, :, completions] = torch.logaddexp(lse_own, lse_of_prompt)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.groups, ctx.scale = groups, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        # In fp32 at least: PyTorch's kernel takes several times as long for small blocks in half precision.
        *halves, lse = ctx.saved_tensors
        query, key, value, out, grad = (x.to(lse.dtype) for x in (*halves, *grads))
        h, k = query.shape[1], key.shape[1]
        keys, values = _for_each_query(key, h), _for_each_query(value, h)
        grad_query, grad_keys, grad_values = (torch.empty_like(x) for x in (query, keys, values))

        def gradients_of(queries: slice, to: slice, *, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
            grad_of, asked, found, lse_of = (x[:, :, queries] for x in (grad, query, out, lse))
            seen = [x[:, :, to] for x in (keys, values)]
            return gradients(grad_of, asked, *seen, found, lse_of, causal=causal, scale=ctx.scale)

        for prompt, completions, branches in map(_slices, ctx.groups):
            for branch in (prompt, *branches):
                found = gradients_of(branch, branch, causal=True)
                for whole, part in zip((grad_query, grad_keys, grad_values), found, strict=True):
                    whole[:, :, branch] = part
            of_query, *of_prompt = gradients_of(completions, prompt, causal=False)
            grad_query[:, :, completions] += of_query
            for whole, part in zip((grad_keys, grad_values), of_prompt, strict=True):
                whole[:, :, prompt] += part
        grad_key, grad_value = (x.unflatten(1, (k, h // k)).sum(2) for x in (grad_keys, grad_values))
        return grad_query, grad_key, grad_value, None, None


def _slices(bounds: Bounds) -> tuple[slice, slice, list[slice]]:
    """The tokens of a prompt, of its completions together, and of each completion."""
    start, *ends = bounds
    branches = [slice(a, b) for a, b in pairwise(ends)]
    return slice(start, ends[0]), slice(ends[0], ends[-1]), branches


def _for_each_query(x: Float[Tensor, "1 k n d"], h: int) -> Float[Tensor, "1 h n d"]:
    """Keys or values, repeated for the query heads that share them."""
    return x.repeat_interleave(h // x.shape[1], 1)
