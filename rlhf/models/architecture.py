"""What an architecture can do, found by trying it and not from a list of names; and what its config says of lengths.

A model that is loaded is tried on a few tokens: whether its log-probabilities are those that the loops compute, whether
a token sees only what came before it, which rows it takes.
"""

import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.groups import Group, Rows, micro_batches
from rlhf.logprobs import Scorer
from rlhf.models.attention import using_attention
from rlhf.models.unpadded import NEED_PADDING

HEADS = ("score", "classifier")  # what transformers calls the head; none of them gets LoRA adapters


@contextmanager
def probing(model: PreTrainedModel) -> Generator[list[int]]:
    """Some tokens to try a model with: in fp32, without gradient and dropout; afterwards it is as it was."""
    was_training, device = model.training, next(model.parameters()).device
    attention: str = model.config._attn_implementation
    attention = "sdpa" if attention == "flash_attention_2" else attention  # that package takes no fp32
    vocabulary: int = model.config.get_text_config().vocab_size
    model.eval()
    try:
        with using_attention(model, attention), torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield [(7 * i + 3) % vocabulary for i in range(12)]
    finally:
        model.train(was_training)


def refuse_lookahead(label: str, model: PreTrainedModel) -> None:
    """See that no token sees later ones, as in an encoder: another last token must leave the earlier states alone.

    Raises:
        UserError: if one does.
    """
    with probing(model) as tokens:
        ids = torch.tensor([tokens, [*tokens[:-1], tokens[0]]], device=next(model.parameters()).device)
        try:
            one, other = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        except (AttributeError, TypeError, RuntimeError):
            return  # not built as others are, which is for other checks to say
        if (one - other).norm() > 1e-4 * one.norm():  # False where they are not finite, which is told by name
            raise UserError(
                f"{label} ({type(model).__name__}) is an encoder: a later token changes what it makes of earlier ones",
                hint="Choose a decoder-only language model, such as Qwen, Llama, OLMo, SmolLM or Mistral.",
            )


def refuse_other_heads(model: PreTrainedModel, label: str) -> None:
    """Only completions' tokens reach the vocabulary, in chunks, as hidden state times output matrix. See that this is
    all that the model does with them: some add a bias, divide the logits or squash them."""
    kind = type(model).__name__
    try:
        with probing(model) as tokens:
            ids = torch.tensor([tokens], device=next(model.parameters()).device)
            own = model(input_ids=ids, use_cache=False).logits
            states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            ours = states @ model.get_output_embeddings().weight.T
            gap = float((own.log_softmax(-1) - ours.log_softmax(-1)).abs().max())
    except (AttributeError, TypeError, RuntimeError) as error:
        raise UserError(f"{label} ({kind}) is not built as a backbone and an output matrix: {error}") from error
    if not gap < 1e-2:
        raise UserError(
            f"{label} ({kind}) does more to its logits than hidden state times output matrix (a bias, a "
            f"scale or a soft cap): its log-probabilities would be wrong by up to {gap:.2g} nats",
            hint="Choose a model with a plain output layer: Qwen, Llama, OLMo, SmolLM and Mistral have one.",
        )


def refuse_unknown_words(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, label: str) -> None:
    """See that the embedding has a row for each token that the tokenizer can make; more rows than that are common.

    Raises:
        UserError: with the tokens that have none.
    """
    embedding: Any = model.get_input_embeddings()
    rows = embedding.weight.shape[0]
    beyond = sorted((i, token) for token, i in tokenizer.get_vocab().items() if i >= rows)
    if beyond:
        some = ", ".join(repr(token) for _, token in beyond[:4])
        raise UserError(
            f"{label}: its tokenizer has {len(beyond)} tokens ({some}{', ...' if len(beyond) > 4 else ''}) with ids up "
            f"to {beyond[-1][0]}, and the model has rows for ids up to {rows - 1}",
            hint="The tokenizer is another model's, or was given tokens without model.resize_token_embeddings.",
        )


def attention_window(model: PreTrainedModel) -> int | None:
    """How many tokens back its attention sees in the layers where that is limited; None if in none of them.

    Read from the config, since trying takes a text longer than the window.
    """
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds and set(kinds) == {"full_attention"}:
        return None
    longest = getattr(config, "max_position_embeddings", None) or sys.maxsize
    names = ("sliding_window", "attention_chunk_size", "attention_window_size", "window_size")
    windows = [window for name in names if isinstance(window := getattr(config, name, None), int)]
    return min((window for window in windows if window < longest), default=None)


def longest_input(config: PreTrainedConfig) -> int | None:
    """How many tokens a model can read, or was made to read, in one text; None if its config sets no limit.

    A table of learned positions ends there, and rotary positions beyond it mean nothing to the model. Rotary positions
    that are stretched reach as far as they are stretched. Limited attention is no limit of this kind.
    """
    config = config.get_text_config()
    if getattr(config, "alibi", False):
        return None
    names = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length")
    limit = next((value for name in names if isinstance(value := getattr(config, name, None), int)), None)
    if limit is None:
        return None
    rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rotary, *(part for part in rotary.values() if isinstance(part, dict))]
    return max(limit, *(_stretched(limit, kind) for kind in kinds))


def _stretched(limit: int, rotary: Mapping[str, Any]) -> int:
    """Positions that rotary embeddings reach by one set of parameters; `limit` may or may not count the stretch."""
    kind, factor = rotary.get("rope_type", rotary.get("type")), rotary.get("factor")
    if not isinstance(factor, int | float) or kind in (None, "default"):
        return limit
    before = rotary.get("original_max_position_embeddings")
    if before is None and kind not in ("linear", "dynamic", "yarn"):
        return limit
    return int((before or limit) * factor)


def refuse_long(config: PreTrainedConfig, tokens: int, what: str, lower: str) -> None:
    """See that a text of so many tokens is one that the model can read.

    Args:
        what: the setting or text that is so long, with its number.
        lower: what to make smaller.

    Raises:
        UserError: if it is too long.
    """
    longest = longest_input(config)
    if longest is not None and tokens > longest:
        raise UserError(
            f"{what}, and the model ({config.model_type}) reads {longest} tokens at most, prompt included",
            hint=f"Lower {lower}.",
        )


def refuse_long_settings(config: PreTrainedConfig, settings: object) -> None:
    """See that the model can read texts as long as the settings say: max_length and max_new_tokens, where they have it.

    Raises:
        UserError: naming the setting.
    """
    for key in ("max_length", "max_new_tokens"):
        tokens = getattr(settings, key, 0)
        refuse_long(config, tokens, f"{key} is {tokens}", f"{key} (--{key} {longest_input(config)})")


def takes_shared_rows(model: PreTrainedModel, reads: Callable[[Rows], Tensor] | None = None) -> bool:
    """Whether shared-prefix rows, and several groups packed into a row, give this architecture's own numbers: of each
    completion, what `reads` makes of a micro-batch, (n, *), or without it the log-probability.

    Found out by trying, not from a list of names: a model that ignores a 4-d mask or explicit positions (state-space
    layers, ALiBi, some remote code) gives other numbers, or an error, for the same completions. One with a limited
    window does neither while the text is short; the mask of a shared row would lift the limit.
    """
    if attention_window(model) is not None:
        return False
    device, scorer = next(model.parameters()).device, Scorer(model)
    of_rows = reads or (lambda rows: scorer(rows).logp.sum(-1))
    with probing(model) as tokens:
        groups = [Group(tokens[:5], [tokens[5:8], tokens[6:12], tokens[4:6]]), Group(tokens[2:4], [tokens[6:9]])]

        def read(**layout: Any) -> Tensor | None:
            batches = micro_batches(groups, token_budget=10**6, **layout)
            try:
                return torch.cat([rows.in_order(of_rows(rows.to(device))) for rows in batches])
            except Exception:  # whatever another architecture's code answers to arguments that it does not know
                return None

        separate, packed, padded = read(shared_prefix=False), read(pack_to=10**6), read()

    def agrees(found: Tensor | None) -> bool:
        return separate is not None and found is not None and torch.allclose(found, separate, atol=1e-3, rtol=1e-3)

    if agrees(packed) and not agrees(padded):  # a CPU leaves padding out
        NEED_PADDING.add(model)
    return agrees(packed)
