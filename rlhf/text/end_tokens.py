"""The tokens that end an assistant's turn: one set for sampling, learning and saving.

Three places say how a turn ends, and in real models they disagree: the tokenizer's end-of-sequence token, the chat
template, and the eos_token_id of generation_config.json and config.json. A token that any of them names is an end.
"""

from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

_OF_MODEL = "ends_of_model"  # attributes of a tokenizer
_OF_TEMPLATE = "ends_of_template"
_MARK = "Qx7"  # a text that no template contains


def end_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end a turn, without repetition: the tokenizer's end-of-sequence token first, if it has one; then what
    the chat template puts behind an assistant's turn; then what the configs of the model name, where the tokenizer
    came with a model."""
    ids = [tokenizer.eos_token_id, _end_of_template(tokenizer), *getattr(tokenizer, _OF_MODEL, ())]
    return list(dict.fromkeys(i for i in ids if i is not None))


def remember_ends_of_model(
    tokenizer: PreTrainedTokenizerBase, config: Mapping[str, Any], generation: GenerationConfig | None
) -> None:
    """Attach to the tokenizer the end tokens that a model's own files name.

    Args:
        config: what config.json says, without the defaults of its class, which mean nothing to other tokenizers. Of
            its ids only control tokens are taken: new models are saved with such defaults.
        generation: generation_config.json, if there is one. Where it was made from config.json, the same holds of it.
    """
    control = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    named: list[int] = []
    if generation is not None:
        said, copied = _ids(generation.eos_token_id), generation._from_model_config
        named += [i for i in said if i in control or not copied]
    for part in (config, config.get("text_config") or {}):
        named += [i for i in _ids(part.get("eos_token_id")) if i in control]
    words = len(tokenizer)
    setattr(tokenizer, _OF_MODEL, tuple(i for i in dict.fromkeys(named) if 0 <= i < words))


def tell_end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write all end tokens into the configs that are saved with a model: what generates from it reads them there."""
    ids = end_tokens(tokenizer)
    if not ids:
        return
    model.config.get_text_config().eos_token_id = ids if len(ids) > 1 else ids[0]
    if model.can_generate() and model.generation_config is not None:
        model.generation_config.eos_token_id = ids
        model.generation_config._from_model_config = False  # said, and not a default


def _ids(value: Any) -> list[int]:
    """An eos_token_id as configs have it: a number, a list of them, or nothing."""
    return [i for i in (value if isinstance(value, list | tuple) else [value]) if isinstance(i, int)]


def _end_of_template(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The first control token that the template really puts behind the answer of a conversation; None if there is none.

    Found by rendering one. A token that only follows at the opening of the next turn is no end.
    """
    template = str(tokenizer.chat_template)
    known = getattr(tokenizer, _OF_TEMPLATE, None)  # (template, its end): rendered once
    if known is None or known[0] != template:
        known = (template, _render_end(tokenizer))
        setattr(tokenizer, _OF_TEMPLATE, known)
    return known[1]


def _render_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _MARK}]
    try:
        text = str(tokenizer.apply_chat_template(talk, tokenize=False))
    except Exception:  # jinja's, of many kinds: a template that takes no such conversation, or none at all
        return None
    _, found, behind = text.rpartition(_MARK)
    if not found:
        return None
    added = tokenizer.added_tokens_decoder
    tokens = [i for i in tokenizer(behind, add_special_tokens=False)["input_ids"] if i in added]
    special = [i for i in tokens if added[i].special]
    return next(iter([*special, *tokens]), None)
