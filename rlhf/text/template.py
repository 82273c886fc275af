"""The chat template of a tokenizer: another one in place of its own, and values for the variables that it reads.

Both become part of the template's text, so whatever renders it uses them: every encoder here, and whoever loads the
saved tokenizer with transformers, vLLM or TRL.
"""

import json
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _get_template_variables

from rlhf.errors import UserError, nearest
from rlhf.text.dialogue import MARK, render
from rlhf.text.end_tokens import end_tokens

# What apply_chat_template gives to every template, whatever the values of `chat_template_kwargs`.
ALWAYS_GIVEN = {"messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now"}
TURN_END = "<|im_end|>"
CHATML = (
    "BEGIN{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}END\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chatml(tokenizer: PreTrainedTokenizerBase) -> str:
    """The ChatML template for a tokenizer that need not know its marks.

    A turn has to end with a token that a model can learn and that sampling stops at: <|im_end|> where the tokenizer has
    it, else its end-of-sequence token. The marks of roles may be plain text, as in Tulu's and OLMo's format. No token
    is added, so no embedding is new. A conversation begins as the tokenizer begins any text.

    Raises:
        UserError: if the tokenizer has neither of these tokens.
    """
    known = tokenizer.get_vocab()
    if TURN_END not in known and tokenizer.eos_token is None:
        raise UserError(f"chat_template: chatml needs {TURN_END} or an end-of-sequence token in the tokenizer")
    begins = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    end = TURN_END if TURN_END in known else "{{ eos_token }}"
    return CHATML.replace("BEGIN", "{{ bos_token }}" if begins else "").replace("END", end)


def set_template(tokenizer: PreTrainedTokenizerBase, template: str, *, label: str) -> None:
    """Put a chat template in place of the tokenizer's own.

    Args:
        label: of the setting and its value, for messages.

    Raises:
        UserError: if it cannot be rendered, shows no answer, or ends answers with what is no token of the tokenizer.
    """
    tokenizer.chat_template = template
    question, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": MARK}
    try:
        _, shown, closing = render(tokenizer, [question, answer]).rpartition(MARK)
    except UserError as error:
        raise UserError(f"{label}: {error.message}") from error
    if not shown:
        raise UserError(f"{label} does not show what the assistant says")
    ends = [str(name) for name in tokenizer.convert_ids_to_tokens(end_tokens(tokenizer))]
    if closing.strip() and not any(end in closing for end in ends):
        raise UserError(
            f"{label} ends an answer with {closing.strip()!r}, which is no token of the tokenizer: a model could not "
            "learn to stop there",
            hint="End answers with {{ eos_token }} in the template, or take chatml, which does where it has to.",
        )


def set_variables(tokenizer: PreTrainedTokenizerBase, values: Mapping[str, Any]) -> None:
    """Give variables of the chat template values, which hold wherever the caller of the template gives none.

    Raises:
        UserError: if the template does not read one of them.
    """
    read = variables_of(tokenizer)
    for name in values:
        if name not in read:
            free = sorted(read - set(tokenizer.special_tokens_map))
            raise UserError(
                f"chat_template_kwargs: the chat template reads no {name!r}; "
                + (nearest(name, free) if free else "it has no variables")
            )
    head = "".join(
        f"{{% set {name} = {name} if {name} is defined else {_literal(value)} %}}" for name, value in values.items()
    )
    templates = tokenizer.chat_template
    tokenizer.chat_template = (
        {key: head + text for key, text in templates.items()} if isinstance(templates, dict) else head + str(templates)
    )


def variables_of(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The variables that the chat template reads, without those that are given to every template."""
    templates = tokenizer.chat_template
    texts = templates.values() if isinstance(templates, dict) else [str(templates)]
    return set().union(*map(_get_template_variables, texts)) - ALWAYS_GIVEN


def _literal(value: Any) -> str:
    """A value of JSON's kinds as Jinja writes it."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(str(key))}: {_literal(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
