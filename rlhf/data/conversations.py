"""Conversations to learn from: rows that end with an answer of the assistant, as messages and as tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlhf.data.columns import MEANING, is_missing, kind_of, refuse_unused
from rlhf.data.messages import CONTEXT, first_question, parse_messages, parse_tools, with_context
from rlhf.data.prompts import conversation_cell
from rlhf.data.ranking_groups import shared_prompt
from rlhf.data.rows import Row, TooLong
from rlhf.groups import Group
from rlhf.text.chat import Conversation, Message, encode_turns, refuse_unknown

MAY_BE_EMPTY = ("system", "tool")  # the roles whose messages may be


@dataclass(frozen=True)
class Dialogue:
    """A conversation that ends with the assistant, and the tools that it was told of."""

    messages: list[Message]
    tools: list[dict[str, Any]]

    @property
    def question(self) -> str:
        return first_question(self.messages)


def parse_row(row: Row) -> Dialogue:
    """`messages` (or ShareGPT's `conversations`), or `prompt` and `completion` as text or as messages, or
    `instruction`/`input`/`output`; with `system` and `history` in front, and `tools`.

    Raises:
        ValueError: whatever else the row is; it says what was found and what was wanted.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"wanted columns, found {type(row).__name__}")
    used = {*CONTEXT, "tools"}
    conversation = conversation_cell(row)
    if conversation is not None:
        messages = parse_messages(conversation, "user", "messages")
    elif "prompt" in row and "completion" in row:
        messages = [
            *parse_messages(row["prompt"], "user", "prompt"),
            *parse_messages(row["completion"], "assistant", "completion"),
        ]
    elif "instruction" in row and "output" in row:
        used.add("input")
        parts = [_text(row[key], key) for key in ("instruction", "input") if not is_missing(row.get(key))]
        messages = [
            *parse_messages("\n\n".join(parts), "user", "instruction"),
            *parse_messages(_text(row["output"], "output"), "assistant", "output"),
        ]
    else:
        raise ValueError(
            f"columns {sorted(row)}: wanted messages, or prompt and completion, or instruction and output{kind_of(row)}"
        )
    refuse_unused(row, used=used, columns=MEANING)
    if conversation is not None:
        _refuse_another_answer(row, messages[-1])
    messages = with_context(row, messages)
    for message in messages:
        if not message["content"].strip() and message["role"] not in MAY_BE_EMPTY and "tool_calls" not in message:
            raise ValueError(f"a message of the {message['role']} is empty")
    if messages[-1]["role"] != "assistant":
        raise ValueError("the conversation does not end with the assistant")
    return Dialogue(messages, parse_tools(row.get("tools")))


def _refuse_another_answer(row: Row, last: Message) -> None:
    """Refuse a conversation beside an answer that it does not end with; one that repeats its end says nothing new."""
    for name in ("completion", "output"):
        answer = row.get(name)
        if not is_missing(answer) and not (isinstance(answer, str) and answer.strip() == last["content"].strip()):
            raise ValueError(f"messages and {name}: wanted one of them, found another answer in each")


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: wanted text, found {type(value).__name__}")
    return value


def dialogue_groups(
    tokenizer: PreTrainedTokenizerBase,
    dialogue: Dialogue,
    *,
    max_length: int,
    truncation: str = "refuse",
    last_turn_only: bool = False,
) -> list[Group]:
    """The conversation as tokens. Where the chat template shows earlier answers differently, each answer is a branch of
    one group, with the context that it would be sampled from; a group of its own, if contexts begin differently.

    Raises:
        TooLong: if an answer with its context takes more than `max_length` tokens and is not to be cut.
        ValueError: if the template refuses it, or it cannot be learned.
    """
    turns = encode_turns(tokenizer, dialogue.messages, tools=dialogue.tools, last_turn_only=last_turn_only)
    fitting = []
    for turn in turns:
        refuse_unknown(tokenizer, turn)
        fitting.append(_fitting(turn, max_length, truncation))
    together = Group(*shared_prompt(fitting))
    return [together] if together.prompt else [Group(*shared_prompt([turn])) for turn in fitting]


def _fitting(turn: Conversation, max_length: int, truncation: str) -> Conversation:
    needs = len(turn.prompt) + len(turn.completion)
    room = max(0, max_length - len(turn.prompt))
    if needs > max_length and truncation == "refuse":
        raise TooLong(needs, max_length)
    if not any(turn.loss_mask[:room]):
        raise ValueError(f"nothing of the answer is left within max_length {max_length}")
    return Conversation(turn.prompt, turn.completion[:room], turn.loss_mask[:room])
