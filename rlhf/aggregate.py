"""From a loss per token (n, t) to one number. The denominator of the sum decides what an algorithm optimizes.

The denominator is that of the whole optimizer step: all micro-batches of all processes. It is counted before the first
backward and passed in as `Totals`, so that a step gives the same gradient however it is cut into micro-batches. Each
function returns the part of one micro-batch; the parts of a step add up to its loss.

Two completions of 3 and 1 tokens, in a step that consists of these two:

    >>> loss = torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]])
    >>> mask = torch.tensor([[True, True, True], [True, False, False]])
    >>> totals = Totals(sequences=2, tokens=4, max_new_tokens=10)
    >>> sequence_sum(loss, mask, totals)  # (6 + 4) / 2
    tensor(5.)
    >>> sequence_mean(loss, mask, totals)  # (6 / 3 + 4 / 1) / 2
    tensor(3.)
    >>> token_mean(loss, mask, totals)  # (6 + 4) / 4
    tensor(2.5000)
    >>> fixed_length(loss, mask, totals)  # (6 + 4) / (2 * 10)
    tensor(0.5000)
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from rlhf.tensors import masked_mean, masked_sum


@dataclass(frozen=True)
class Totals:
    """Counts over all micro-batches and processes of one optimizer step."""

    sequences: int
    tokens: int  # in the loss mask
    max_new_tokens: int  # the longest completion that may be sampled


Loss = Float[Tensor, "n t"]
Mask = Bool[Tensor, "n t"]
Aggregate = Callable[[Loss, Mask, Totals], Float[Tensor, ""]]


def sequence_sum(loss: Loss, mask: Mask, totals: Totals) -> Float[Tensor, ""]:
    """sum_i sum_t loss / sequences: the loss of a whole completion. The unbiased policy gradient."""
    return masked_sum(loss, mask).sum() / totals.sequences


def sequence_mean(loss: Loss, mask: Mask, totals: Totals) -> Float[Tensor, ""]:
    """sum_i (1/|o_i|) sum_t loss / sequences: every completion has equal weight, so a token of a long one has less."""
    return masked_mean(loss, mask).sum() / totals.sequences


def token_mean(loss: Loss, mask: Mask, totals: Totals) -> Float[Tensor, ""]:
    """sum_i sum_t loss / tokens: every token has equal weight, so a long completion has more."""
    return masked_sum(loss, mask).sum() / totals.tokens


def fixed_length(loss: Loss, mask: Mask, totals: Totals) -> Float[Tensor, ""]:
    """sum_i sum_t loss / (sequences * max_new_tokens): `sequence_sum` scaled by a constant."""
    return masked_sum(loss, mask).sum() / (totals.sequences * totals.max_new_tokens)


aggregates: dict[str, Aggregate] = {
    "sequence_sum": sequence_sum,
    "sequence_mean": sequence_mean,
    "token_mean": token_mean,
    "fixed_length": fixed_length,
}
