"""Columns that change what a row means. A reader uses such a column or refuses the row; none is dropped in silence.

A row of another kind (a tool call, an answer that nobody wanted, a turn of a longer conversation) read without the
column that says so would be learned as if it were a plain one.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from rlhf.errors import UserError

# What belongs in front of the question, or into it.
CONTEXT = ("system", "system_prompt", "system_message", "history", "input", "context", "documents")
TOOLS = ("tools", "tool_calls", "tool_call_id", "functions", "function_call", "chat_template_kwargs")
THOUGHT = ("reasoning_content", "reasoning", "thinking")
# How good an answer is, or how much it counts.
JUDGEMENT = ("label", "labels", "is_correct", "correct", "kto_tag", "rank", "ranks", "weight", "weights")
MEDIA = ("image", "images", "audio", "audios", "video", "videos")
SAMPLED = ("ended",)  # whether the policy that wrote an answer ended it, or was cut off; see rlhf.data.answers
QUESTION = (*CONTEXT, *TOOLS, *MEDIA)  # what a question cannot be answered without
MEANING = (*CONTEXT, *TOOLS, *THOUGHT, *JUDGEMENT, *MEDIA, *SAMPLED)

# A list of messages as text, as a table has it that was written by another program (in JSON, or in Python's own way).
WRITTEN_OUT = re.compile(
    r"""\s*\[\s*\{[^{}]*["'](role|from)["']\s*:\s*["'](system|developer|user|assistant|tool|human|gpt)["']"""
)
NUMBER = re.compile(r"\s*[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\s*")
_YES = ("true", "yes", "good", "right", "correct", "positive", "desirable", "chosen", "+", "1", "+1", "1.0")
_NO = ("false", "no", "bad", "wrong", "incorrect", "negative", "undesirable", "rejected", "-", "0", "-1", "0.0", "-1.0")
TRUTH = {**dict.fromkeys(_YES, True), **dict.fromkeys(_NO, False)}
LABELS = ("label", "is_correct", "correct", "kto_tag")  # of one answer, true or false


def is_missing(value: object) -> bool:
    """Whether a cell says nothing: null, not-a-number (pandas' null), empty text, an empty list."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value)) or value in ([], {}, ())


def refuse_unused(row: Mapping[str, Any], *, used: Collection[str], columns: Collection[str] = MEANING) -> None:
    """Refuse a row (or a message) with one of `columns` that its reader does not use.

    A weight of 1, and an answer that has ended, are what a row without the column has: they change nothing.

    Raises:
        ValueError: with the columns, and what they hold.
    """
    found = [name for name in columns if name in row and name not in used and not _is_neutral(name, row[name])]
    if found:
        held = "; ".join(f"{name} {short(row[name])}" for name in found)
        raise ValueError(f"{' and '.join(found)} would be ignored, but change what the row means ({held})")


def _is_neutral(name: str, value: object) -> bool:
    values = value if isinstance(value, list | tuple) else [value]
    if name in ("weight", "weights") and all(one in (1, "1", "1.0", None) for one in values):
        return True
    return is_missing(value) or (name in SAMPLED and all(one is True for one in values))


def refuse_written_out(text: str, name: str) -> None:
    """Refuse a list of messages that was written into a text: as a text, its brackets and roles would be learned.

    Raises:
        ValueError: it is one.
    """
    if WRITTEN_OUT.match(text):
        raise ValueError(
            f"{name}: wanted text or a list of messages, found a list that was written out as text {short(text)}; "
            "give the list itself (.jsonl, .json or .parquet)"
        )


def cell_number(value: object, name: str) -> float:
    """A finite number; also written as text, since that is what the cells of a .csv are.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, str) and NUMBER.fullmatch(value):
        value = float(value)
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
    except OverflowError:  # a whole number beyond what a float holds
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name}: wanted a number, found {short(value)}")
    return number


def cell_truth(value: object, name: str) -> bool:
    """true or false, 1 or 0, 1 or -1, or a word for them such as good and bad; numbers also written as text, since that
    is what the cells of a .csv are. Whether a 0 beside a -1 is a no is for `refuse_ambiguous` to see.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str) and value.strip().lower() in TRUTH:
        return TRUTH[value.strip().lower()]
    if not isinstance(value, bool | int | float) or value not in (-1, 0, 1):
        raise ValueError(f"{name}: wanted true or false (1 or 0, 1 or -1, good or bad), found {short(value)}")
    return value == 1


def refuse_ambiguous(rows: Iterable[tuple[str, Any]], names: Collection[str] = LABELS) -> None:
    """See that a file's labels are of two kinds: with -1 for no, a 0 is neither yes nor no.

    Raises:
        UserError: there are both; it names a row of each.
    """
    first: dict[str, str] = {}
    for where, row in rows:
        if isinstance(row, Mapping):
            for name in names:
                if not isinstance(row.get(name), bool) and (written := _number_of(row.get(name))) in (-1.0, 0.0):
                    first.setdefault("-1" if written else "0", f"{where}: {name} {short(row[name])}")
    if len(first) > 1:
        raise UserError(
            f"data.path: labels of -1 ({first['-1']}) and of 0 ({first['0']}) in one file: 0 may be wrong or neutral",
            hint="Write true and false, 1 and 0, or 1 and -1; leave neutral rows out.",
        )


def _number_of(value: object) -> float | None:
    try:
        return cell_number(value, "")
    except ValueError:
        return None


def short(value: object) -> str:
    """A value in a message: at most 60 characters."""
    try:
        text = repr(value)
    except Exception:  # of an object whose own code fails
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."


# What each kind of row is, by the columns that only it has, and which command reads it. The first that fits is named.
_KINDS = (
    ({"chosen", "rejected"}, "pairs, which reward_models.train_preference_rm and direct_alignment.train read"),
    (
        {"completions", "labels"},
        "solutions or steps with labels: reward_models.train_orm reads one, train_prm the other",
    ),
    ({"completion", "label"}, "answers with a label, which direct_alignment.train --loss kto and train_orm read"),
    ({"question", "label"}, "PRM800K's rows (reward_models.train_prm) or solutions with a label (train_orm)"),
    ({"messages", "label"}, "conversations with a label, which direct_alignment.train --loss kto and train_orm read"),
    ({"input", "label", "task"}, "Math-Shepherd's steps with + and -, which reward_models.train_prm reads"),
    ({"prompt", "reward_model"}, "verl's prompts with an answer, which the task prompts reads"),
    ({"messages"}, "conversations, which instruction_tuning.train reads"),
    ({"conversations"}, "conversations, which instruction_tuning.train reads"),
    ({"instruction", "output"}, "demonstrations, which instruction_tuning.train reads"),
    ({"prompt", "completion"}, "demonstrations, which instruction_tuning.train reads"),
    ({"question", "answer"}, "problems, which the tasks prompts and word_problems read"),
    ({"prompt", "answer"}, "prompts with an answer, which the task prompts reads"),
)


def kind_of(row: Mapping[str, Any]) -> str:
    """What a row that a reader cannot use seems to be, as the end of a message; "" where that is unknown."""
    given = {name for name, value in row.items() if not is_missing(value)}
    return next((f"; these look like {kind}" for columns, kind in _KINDS if columns <= given), "")
