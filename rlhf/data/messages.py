"""Messages of a row, as every family reads them: text or a list, with what belongs in front of them.

Nothing that a message says is dropped in silence: calls of tools and reasoning go to the chat template; other keys that
change the meaning (a weight, an image) make the row unusable; only what describes a message (an id, a source) is left.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.data.columns import MEANING, is_missing, refuse_unused, refuse_written_out, short
from rlhf.text.dialogue import CONTENT_KEYS, ROLES, Message

KEPT = ("role", "content", "name", "tool_call_id", *CONTENT_KEYS)
FLAGS = ("train", "trainable", "loss")  # whether a message is learned, in some formats
SYSTEM = ("system", "system_prompt", "system_message")
CONTEXT = (*SYSTEM, "history")  # what `with_context` uses
CONVERSATIONS = ("messages", "conversations")  # columns that hold a whole conversation
SPEAKERS = {  # ShareGPT's `from`, whose text is in `value`
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "chatgpt"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
    "system": "system",
}


def parse_messages(value: object, role: str, name: str) -> list[Message]:
    """Text as one message of `role`; or messages, one or a list, checked. `name` is the column, for what is said of it.

    ShareGPT's messages, with `from` and `value`, do as well.

    Keys without a value are left out, as tables have them where other rows have one; the arguments of a call become an
    object where they are JSON text, which templates would quote a second time.

    Raises:
        ValueError: with the reason.
    """
    if isinstance(value, str):
        refuse_written_out(value, name)
        return [{"role": role, "content": value}]
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name}: wanted text or a list of messages, found {short(value)}")
    return [_message(_with_role(message, name), name) for message in value]


def first_question(messages: Sequence[Message]) -> str:
    """What the user asked first. Conversations that begin alike belong on the same side of a split."""
    return next((message["content"] for message in messages if message["role"] == "user"), "")


def _with_role(message: object, name: str) -> object:
    """One of ShareGPT's messages with the names that all others have."""
    if not isinstance(message, Mapping) or "from" not in message or "role" in message:
        return message
    if message["from"] not in SPEAKERS:
        raise ValueError(f"{name}: from {short(message['from'])}, wanted one of {', '.join(SPEAKERS)}")
    rest = {key: value for key, value in message.items() if key not in ("from", "value")}
    return {"role": SPEAKERS[message["from"]], "content": message.get("value"), **rest}


def _message(message: object, name: str) -> Message:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise ValueError(f"{name}: wanted messages with role and content as text, found {short(message)}")
    if message["role"] not in ROLES:
        raise ValueError(f"{name}: role {message['role']!r}, wanted one of {', '.join(ROLES)}")
    refuse_unused(message, used=KEPT, columns=(*MEANING, *FLAGS))
    kept = {key: _without_nulls(message[key]) for key in KEPT if not is_missing(message.get(key))}
    if "tool_calls" in kept:
        kept["tool_calls"] = _calls(kept["tool_calls"], name)
    elif not isinstance(message.get("content"), str):
        raise ValueError(f"{name}: wanted messages with role and content as text, found {short(message)}")
    for key in kept.keys() - {"tool_calls"}:
        if not isinstance(kept[key], str):
            raise ValueError(f"{name}: {key}: wanted text, found {short(kept[key])}")
    return {**kept, "content": message.get("content") or ""}


def _calls(calls: Any, name: str) -> list[Any]:
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        raise ValueError(f"{name}: tool_calls: wanted a list of calls, found {short(calls)}")
    return [{key: _with_arguments(value) for key, value in _with_arguments(call).items()} for call in calls]


def _with_arguments(call: Any) -> Any:
    """A call, or its `function`, with its arguments as an object."""
    if not isinstance(call, Mapping) or not isinstance(call.get("arguments"), str):
        return call
    try:
        arguments = json.loads(call["arguments"])
    except ValueError:
        return call
    return {**call, "arguments": arguments} if isinstance(arguments, dict) else call


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(inside) for key, inside in value.items() if inside is not None}
    return [_without_nulls(inside) for inside in value] if isinstance(value, list) else value


def with_context(row: Mapping[str, Any], messages: list[Message]) -> list[Message]:
    """The messages with what other columns put in front of them: a system message, earlier turns.

    `system` (or `system_prompt`, `system_message`) is text; `history` is a list of [question, answer], or messages.

    Raises:
        ValueError: with the reason.
    """
    first = messages[:1] if messages and messages[0]["role"] == "system" else []
    system: list[Message] = list(first)
    for name in SYSTEM:
        text = row.get(name)
        if is_missing(text):
            continue
        if not isinstance(text, str):
            raise ValueError(f"{name}: wanted text, found {short(text)}")
        if system and system[0]["content"].strip() != text.strip():
            raise ValueError(f"{name}: another system message than the conversation's")
        system = system or [{"role": "system", "content": text}]
    return [*system, *_history(row.get("history")), *messages[len(first) :]]


def _history(value: Any) -> list[Message]:
    if is_missing(value):
        return []
    if not isinstance(value, list):
        raise ValueError(f"history: wanted a list of [question, answer], found {short(value)}")
    if all(isinstance(turn, Mapping) for turn in value):
        return parse_messages(value, "user", "history")
    messages: list[Message] = []
    for turn in value:
        if not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(text, str) for text in turn):
            raise ValueError(f"history: wanted a list of [question, answer], found {short(turn)}")
        messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return messages


def parse_tools(value: Any) -> list[dict[str, Any]]:
    """The tools of a row as the chat template takes them: a list of objects, also written as JSON text.

    Raises:
        ValueError: with the reason.
    """
    if is_missing(value):
        return []
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"tools: wanted a list of objects, found {short(value)}") from error
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise ValueError(f"tools: wanted a list of objects, found {short(value)}")
    return [_without_nulls(tool) for tool in value]
