"""A forward pass over the tokens of shared rows alone, without their padding.

    rows      a a a a a a        tokens    a a a a a a b b b c c c c
              b b b . . .
              c c c c . .

All but attention treats each token by itself, so the tokens of all rows may lie behind one another. Attention of long
rows is computed branch by branch. For that of short rows, tokens are put at their places in the padded rows, under the
mask, and the outcome is taken back. Time on a CPU goes with the number of tokens, so this saves that of padding.
"""

from typing import Any
from weakref import WeakSet

from jaxtyping import Float, Int
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rlhf.groups import Rows
from rlhf.models.attention import attention_kernel, using_attention
from rlhf.models.branch_attention import branch_attention
from rlhf.models.recomputing import recomputes

NAME = "unpadded"
LONG = 384  # tokens of a row; in shorter ones a call for each branch takes longer than one under the mask
LEAST = 1 / 8  # share of padding in short rows; with less, putting tokens at their places takes longer than it saves
NEED_PADDING: WeakSet[PreTrainedModel] = WeakSet()  # models that take shared rows, but not without padding


def goes_unpadded(model: PreTrainedModel, rows: Rows) -> bool:
    """Whether the pass can leave padding out, and gains time by it.

    It takes a model whose attention is PyTorch's and goes through transformers' interface. With gradient checkpointing
    layers run again in the backward pass, when the model has its own attention back.
    """
    padding = 1 - len(rows.token_index) / rows.input_ids.numel()
    return (
        rows.attention_mask is not None
        and rows.input_ids.device.type == "cpu"
        and (padding > LEAST or _is_long(rows))
        and model.config._attn_implementation == "sdpa"
        and model.is_backend_compatible()
        and model not in NEED_PADDING
        and not recomputes(model)
    )


def unpadded_states(model: PreTrainedModel, rows: Rows) -> Float[Tensor, "r l d"]:
    """The last hidden states of the tokens of shared rows; zero at padding."""
    index = rows.token_index
    with using_attention(model, NAME), attention_kernel(model, rows):
        states = model.base_model(
            input_ids=rows.input_ids.flatten()[None, index],
            position_ids=rows.position_ids.flatten()[None, index],
            attention_mask=rows.attention_mask,
            rows=rows,
            use_cache=False,
        ).last_hidden_state
    return _at_places(states[0], index, rows.input_ids.numel()).unflatten(0, rows.input_ids.shape)


def unpadded_attention(
    module: Any,
    query: Float[Tensor, "1 h n d"],
    key: Float[Tensor, "1 k n d"],
    value: Float[Tensor, "1 k n dv"],
    attention_mask: Tensor,
    rows: Rows,
    **options: Any,
) -> tuple[Float[Tensor, "1 n h dv"], None]:
    """transformers' attention over rows, of queries, keys and values of n tokens that are not padding."""
    index = rows.token_index
    # The kernel of the branches knows no dropout, and values as wide as keys alone.
    if _is_long(rows) and query.shape[-1] == value.shape[-1] and not options.get("dropout"):
        return branch_attention(query, key, value, rows.bounds, options.get("scaling")).transpose(1, 2), None

    def in_rows(heads: Float[Tensor, "1 h n d"]) -> Float[Tensor, "r h l d"]:
        at_places = _at_places(heads[0].transpose(0, 1), index, rows.input_ids.numel())
        return at_places.unflatten(0, rows.input_ids.shape).transpose(1, 2)

    outcome, _ = sdpa_attention_forward(module, in_rows(query), in_rows(key), in_rows(value), attention_mask, **options)
    return outcome.flatten(0, 1).index_select(0, index)[None], None


def _is_long(rows: Rows) -> bool:
    return rows.input_ids.shape[1] >= LONG


def _at_places(tokens: Float[Tensor, "n *w"], index: Int[Tensor, " n"], places: int) -> Float[Tensor, "places *w"]:
    """Each token at its place of so many; zero where none is."""
    return tokens.new_zeros(places, *tokens.shape[1:]).index_copy(0, index, tokens)


AttentionInterface.register(NAME, unpadded_attention)
