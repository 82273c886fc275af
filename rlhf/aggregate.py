"""From a loss per token (n, t) to one number. What the sum is divided by decides what an algorithm optimizes.

The denominator belongs to the whole optimizer step: every micro-batch of every process. It is counted before the first
backward and passed in as `Totals`, so that a step cut into any number of pieces gives the same gradient. Each function
returns this piece's share; the shares of a step add up to its loss.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from rlhf.tensors import masked_mean, masked_sum


@dataclass(frozen=True)
class Totals:
    """Of one optimizer step, over all its micro-batches and processes."""

    sequences: int
    tokens: int  # that count in the loss
    max_new_tokens: int  # the longest completion that may be sampled


Loss = Float[Tensor, "n t"]
Mask = Bool[Tensor, "n t"]
Aggregate = Callable[[Loss, Mask, Totals], Float[Tensor, ""]]


def sequence_sum(loss: Loss, mask: Mask, totals: Totals) -> Float[Tensor, ""]:
    """sum_i sum_t loss / sequences: the log-probability of a whole completion. The true policy gradient."""
    return masked_sum(loss, mask).sum() / totals.sequences


def sequence_mean(loss: Loss, mask: Mask, totals: Totals) -> Float[Tensor, ""]:
    """sum_i (1/|o_i|) sum_t loss / sequences: every completion weighs the same, a token of a long one less."""
    return masked_mean(loss, mask).sum() / totals.sequences


def token_mean(loss: Loss, mask: Mask, totals: Totals) -> Float[Tensor, ""]:
    """sum_i sum_t loss / tokens: every token weighs the same, so a long completion weighs more."""
    return masked_sum(loss, mask).sum() / totals.tokens


def fixed_length(loss: Loss, mask: Mask, totals: Totals) -> Float[Tensor, ""]:
    """sum_i sum_t loss / (sequences * max_new_tokens): sequence_sum, scaled by a constant that no completion sets."""
    return masked_sum(loss, mask).sum() / (totals.sequences * totals.max_new_tokens)


aggregates: dict[str, Aggregate] = {
    "sequence_sum": sequence_sum,
    "sequence_mean": sequence_mean,
    "token_mean": token_mean,
    "fixed_length": fixed_length,
}
