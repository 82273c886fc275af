"""The prompt of a row, as every family reads it: text, messages or hh-rlhf's dialogue, with its context in front."""

import re
from collections.abc import Mapping
from typing import Any

from rlhf.data.columns import is_missing
from rlhf.data.messages import CONVERSATIONS, parse_messages, with_context
from rlhf.text.chat import Message

PROMPTS = ("prompt", "instruction", "question", "problem")
TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")  # hh-rlhf's way to write a dialogue


def read_prompt(row: Mapping[str, Any]) -> list[Message]:
    """The prompt of a row with its context, whatever else the row holds; [] where it has none.

    Raises:
        ValueError: with the reason.
    """
    prompt = prompt_cell(row)
    return [] if prompt is None else with_context(row, asked(prompt))


def prompt_cell(row: Mapping[str, Any]) -> Any:
    """Text or messages; None where the row has none. An `input` is what an `instruction` is about.

    Raises:
        ValueError: an `input` without an instruction.
    """
    name = next((name for name in PROMPTS if row.get(name) is not None), None)
    about = row.get("input")
    if is_missing(about):
        return None if name is None else row[name]
    if name != "instruction" or not isinstance(about, str) or not isinstance(row[name], str):
        raise ValueError(f"input belongs to an instruction, both as text (columns {sorted(row)})")
    return f"{row[name]}\n\n{about}"


def asked(prompt: Any) -> list[Message]:
    """The messages of a prompt: text is what the user says."""
    return dialogue(prompt, "prompt") if is_dialogue(prompt) else parse_messages(prompt, "user", "prompt")


def conversation_cell(row: Mapping[str, Any]) -> Any:
    """The conversation of a row, `messages` or ShareGPT's `conversations`; None where it has none."""
    return next((row[name] for name in CONVERSATIONS if not is_missing(row.get(name))), None)


def read_conversation(row: Mapping[str, Any]) -> tuple[list[Message], Message]:
    """A conversation as (what comes before its last answer, that answer).

    Raises:
        ValueError: it does not end with the assistant.
    """
    messages = parse_messages(conversation_cell(row), "user", "messages")
    if messages[-1]["role"] != "assistant" or len(messages) < 2:
        raise ValueError("the conversation does not end with an answer of the assistant")
    return with_context(row, messages[:-1]), messages[-1]


def is_dialogue(value: object) -> bool:
    return isinstance(value, str) and re.match(r"\s*Human:", value) is not None


def dialogue(value: object, name: str) -> list[Message]:
    """Messages, or hh-rlhf's text. Neighbours of the same speaker are joined: templates want turns to alternate.

    Raises:
        ValueError: it is another text.
    """
    if not isinstance(value, str):
        return parse_messages(value, "assistant", name)
    if not is_dialogue(value):
        raise ValueError(f"{name}: there is no prompt column, and the text does not begin with 'Human:'")
    _, *parts = TURN.split(value.strip())
    turns: list[dict[str, str]] = []
    for speaker, content in zip(parts[::2], parts[1::2], strict=True):
        role = {"Human": "user", "Assistant": "assistant"}[speaker]
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] = f"{turns[-1]['content']}\n\n{content.strip()}".strip()
        else:
            turns.append({"role": role, "content": content.strip()})
    if name == "prompt" and turns[-1] == {"role": "assistant", "content": ""}:
        turns.pop()  # the opening of the answer
    return list(turns)
