"""What is to be answered, of a row of any of the formats in docs/data.md."""

from rlhf.data.columns import QUESTION, kind_of, refuse_unused
from rlhf.data.messages import CONTEXT, parse_messages, with_context
from rlhf.data.preferences import parse_preference
from rlhf.data.prompts import conversation_cell, prompt_cell, read_prompt
from rlhf.data.rows import Row
from rlhf.text.chat import Message


def parse_prompt(row: Row) -> list[Message]:
    """The prompt of a row; of a conversation all before its last answer; of a pair alone what both begin with.

    Raises:
        ValueError: with the reason.
    """
    refuse_unused(row, used=(*CONTEXT, "input"), columns=QUESTION)
    conversation = conversation_cell(row)
    if prompt_cell(row) is not None:
        messages = read_prompt(row)
    elif conversation is not None:
        messages = with_context(row, parse_messages(conversation, "user", "messages"))
        messages = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    elif row.get("chosen") is not None:
        messages = parse_preference(row).prompt
    else:
        raise ValueError(f"columns {sorted(row)}: wanted a prompt, as text or messages{kind_of(row)}")
    if not messages or messages[-1]["role"] == "assistant":
        raise ValueError("there is nothing to answer: no message of the user, or an answer behind it")
    return messages
