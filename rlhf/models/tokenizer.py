"""Tokenizers as they are, with the end tokens that the model names and the chat template that the run asks for."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transformers import AutoTokenizer, GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.models.loading import Source, find_model, reading
from rlhf.models.names import find_template
from rlhf.text.end_tokens import remember_ends_of_model
from rlhf.text.template import chatml, set_template, set_variables


def load_tokenizer(
    name: str,
    *,
    key: str = "model_name",
    chat_template: str | None = None,
    chat_template_kwargs: Mapping[str, Any] = MappingProxyType({}),
) -> PreTrainedTokenizerBase:
    """A model's tokenizer, which also knows the end tokens that the model's own configs name.

    Args:
        key: of the setting that the name is the value of, for messages.
        chat_template, chat_template_kwargs: see `with_chat_template`.

    Raises:
        UserError: if there is no tokenizer, or no chat template, or not the one that is asked for.
    """
    source = find_model(name, key=key)
    tokenizer = read_tokenizer(source)
    tokenizer.init_kwargs.pop("auto_map", None)
    remember_ends_of_model(tokenizer, *_read_ends(source))
    with_chat_template(tokenizer, chat_template=chat_template, chat_template_kwargs=chat_template_kwargs)
    if not tokenizer.chat_template:
        raise UserError(
            f"{key}: the tokenizer of '{name}' has no chat template, as base models have none",
            hint="To train it, set chat_template: chatml, or chat_template: MODEL for that of its instruction-tuned "
            "sibling. To sample from or to judge by, take a run or an instruction-tuned model.",
        )
    return tokenizer


def with_chat_template(
    tokenizer: PreTrainedTokenizerBase, *, chat_template: str | None, chat_template_kwargs: Mapping[str, Any]
) -> PreTrainedTokenizerBase:
    """The same tokenizer, with the chat template and the values of its variables that a run asks for.

    Args:
        chat_template: `chatml`, a file NAME.jinja, or a model (Hub id, folder, run) whose template is taken; None: the
            tokenizer's own.
        chat_template_kwargs: values of the template's variables; see `rlhf.text.template.set_variables`.

    Raises:
        UserError: if the template is not there or does not fit the tokenizer, or does not read a variable.
    """
    if chat_template is not None:
        set_template(tokenizer, _find_template(tokenizer, chat_template), label=f"chat_template: '{chat_template}'")
    if chat_template_kwargs and tokenizer.chat_template:
        set_variables(tokenizer, chat_template_kwargs)
    return tokenizer


def _find_template(tokenizer: PreTrainedTokenizerBase, name: str) -> str:
    if name == "chatml":
        return chatml(tokenizer)
    if file := find_template(name):
        try:
            return file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"chat_template: '{name}' cannot be read: {error}") from error
    template = read_tokenizer(find_model(name, key="chat_template")).chat_template
    if not isinstance(template, str):
        raise UserError(
            f"chat_template: the tokenizer of '{name}' has {'several' if template else 'no'} chat templates",
            hint="Accepted: chatml, a file NAME.jinja, or a model whose tokenizer has one chat template.",
        )
    return template


def read_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """The tokenizer of a model as it is, or a copy of the one that a Python program has handed over."""
    if source.live is not None:
        return deepcopy(source.live.tokenizer)
    with reading(source, ": its tokenizer could not be read"):
        tokenizer = AutoTokenizer.from_pretrained(source.path, **source.arguments)
    if tokenizer is None:
        raise UserError(f"{source.label} has no tokenizer")
    return tokenizer


def _read_ends(source: Source) -> tuple[dict[str, Any], GenerationConfig | None]:
    """config.json as it is written, and generation_config.json where there is one."""
    if source.gguf_file:
        return {}, None
    if source.live is not None:
        return source.live.model.config.to_dict(), source.live.model.generation_config
    with reading(source, ": its config.json could not be read"):
        config, _ = PreTrainedConfig.get_config_dict(source.path, **source.arguments)
    folder = Path(source.path)
    if folder.is_dir() and not (folder / "generation_config.json").is_file():
        return config, None
    try:
        return config, GenerationConfig.from_pretrained(source.path)
    except (OSError, ValueError, TypeError, AttributeError) as error:  # of another form than an object too
        if not folder.is_dir():  # of the Hub: it has none
            return config, None
        raise UserError(f"{source.label}: its generation_config.json could not be read: {error}") from error
