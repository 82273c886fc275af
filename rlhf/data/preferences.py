"""Preference data: rows of many shapes to rankings.

A ranking is a prompt with completions, the best first; two of them make a pair. Everything that compares answers (a
preference reward model, direct alignment) reads its data through here. Rankings to tokens: `ranking_groups.py`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlhf.data.answers import Answer, from_columns
from rlhf.data.columns import LABELS, cell_number, cell_truth, is_missing, kind_of, refuse_unused, short
from rlhf.data.messages import CONTEXT, first_question, parse_messages, with_context
from rlhf.data.prompts import asked, conversation_cell, dialogue, prompt_cell, read_conversation
from rlhf.data.rows import Row
from rlhf.text.chat import Message

SIDES = (("chosen", "rejected"), ("chosen_response", "rejected_response"))
SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
    ("chosen_avg_rating", "rejected_avg_rating"),
)
RANKS = ("ranks", "rank")
AS_SAMPLED = ("ended", "tokens")  # see `rlhf.data.answers`
USED = (*CONTEXT, *RANKS, *AS_SAMPLED, "input")


@dataclass(frozen=True)
class Ranking:
    """A prompt and answers to it. Each completion begins and ends with a message of the assistant."""

    prompt: list[Message]
    completions: list[list[Message]]  # best first; two for a pair
    margin: float | None  # by how much the first is better than the second, where the data say so
    answers: tuple[Answer, ...] = ()  # the completions as they were sampled, where that is known
    # So many first completions are each better than each of the others, and no more is known; None: all are ranked.
    chosen: int | None = None

    @classmethod
    def of_answers(cls, prompt: list[Message], answers: Sequence[Answer], margin: float | None = None) -> "Ranking":
        """Of completions that a policy sampled."""
        messages: list[list[Message]] = [[{"role": "assistant", "content": answer.text}] for answer in answers]
        return cls(prompt, messages, margin, tuple(answers))

    @property
    def question(self) -> str:
        return first_question(self.prompt)

    def take(self, which: slice) -> "Ranking":
        """Some of the completions, as a ranking."""
        return replace(self, completions=self.completions[which], answers=self.answers[which], chosen=None)


# ---------------------------------------------------------------------------------------------------------- reading


def parse_preference(row: Row) -> Ranking:
    """One row of any of these shapes:

    - `prompt` with `chosen` and `rejected`, each text or messages; where these repeat the prompt, they are shortened;
    - `prompt` with lists of texts as `chosen` and `rejected` (RewardBench 2): each of the first is better than each of
      the others;
    - `conversations` (ShareGPT) with `chosen` and `rejected`, a message each;
    - `chosen` and `rejected` alone, as messages or as hh-rlhf's "Human: ..", "Assistant: .." paragraphs: the prompt is
      what both begin with, up to an answer of the assistant;
    - `prompt` with ranked `completions`, best first, or in any order with `scores` or `ranks` (a list beside them, or a
      number in each); of equal scores the first is kept, since a tie ranks nothing.

    `instruction` (with `input` behind it) and `question` do for `prompt`; `system` and `history` come in front of it.
    The margin is the column `margin`, or the difference of a known pair of columns such as score_chosen and
    score_rejected. Completions with `labels` are no ranking: they are solutions, or steps, and refused by that name.

    Raises:
        ValueError: with the reason, whatever is odd about the row.
    """
    if not is_missing(row.get("completions")) and not is_missing(row.get("labels")):
        raise ValueError(f"completions with labels are no ranking{kind_of(row)}")
    prompt = _prompt(row)
    chosen = None
    if not is_missing(row.get("completions")):
        refuse_unused(row, used=USED)
        if prompt is None:
            raise ValueError(f"columns {sorted(row)}: ranked completions need a prompt")
        order, given = _ranked(row)
        names = [f"completion {i}" for i in order]
    else:
        names, given, chosen = _sides(row)
        refuse_unused(row, used=[name for name in USED if name not in RANKS])
        order = list(range(len(given)))
    if prompt is None:
        sides = [dialogue(side, name) for side, name in zip(given, names, strict=True)]
        shared = _shared_turns(sides)
        before, answers = with_context(row, sides[0][:shared]), [side[shared:] for side in sides]
    else:
        before, answers = _behind(row, prompt, given, names)
    _check(before, answers, names)
    if len(answers) < 2:
        raise ValueError(f"a ranking needs two completions that differ in score, found {len(answers)}")
    return Ranking(before, answers, _margin(row), _as_sampled(row, answers, order), chosen)


def _prompt(row: Row) -> Any:
    """The prompt's cell; a conversation of ShareGPT is the prompt of the pair beside it."""
    prompt = prompt_cell(row)
    return row.get("conversations") if prompt is None and not is_missing(row.get("conversations")) else prompt


def _sides(row: Row) -> tuple[list[str], list[Any], int | None]:
    """Names and contents of chosen and rejected; and of lists how many are chosen, each text once."""
    pair = next((pair for pair in SIDES if all(row.get(name) is not None for name in pair)), None)
    if pair is None:
        raise ValueError(f"columns {sorted(row)}: wanted chosen and rejected, or prompt and completions{kind_of(row)}")
    sides = [row[name] for name in pair]
    if not any(isinstance(side, list) and all(isinstance(text, str) for text in side) for side in sides):
        return list(pair), sides, None
    lists = [list(dict.fromkeys(side)) if isinstance(side, list) else [side] for side in sides]
    for name, texts in zip(pair, lists, strict=True):
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{name}: wanted texts, as many as there are, found {short(row[name])}")
    names = [f"{name} {i}" for name, texts in zip(pair, lists, strict=True) for i in range(len(texts))]
    count = len(lists[0]) if len(names) > 2 else None
    return names, [*lists[0], *lists[1]], count


def parse_labelled(row: Row) -> tuple[Ranking, bool]:
    """A prompt as in `parse_preference` with one `completion` (text or messages), or a conversation (`messages`, or
    ShareGPT's `conversations`) whose last answer is meant; and a `label` (or `is_correct`, `correct`, `kto_tag`): true
    for wanted, false for unwanted.

    Raises:
        ValueError: with the reason.
    """
    name = next((name for name in LABELS if not is_missing(row.get(name))), "label")
    refuse_unused(row, used=(*CONTEXT, *AS_SAMPLED, "input", name))
    prompt = prompt_cell(row)
    if prompt is not None and not is_missing(row.get("completion")):
        before, answers = _behind(row, prompt, [row["completion"]], ["completion"])
    elif conversation_cell(row) is not None:
        before, last = read_conversation(row)
        answers = [[last]]
    else:
        raise ValueError(
            f"columns {sorted(row)}: wanted prompt, completion and label, or messages and label{kind_of(row)}"
        )
    label = cell_truth(row.get(name), name)
    _check(before, answers, ["completion"])
    return Ranking(before, answers, None, _as_sampled(row, answers, [0])), label


def _behind(
    row: Row, prompt: Any, given: Sequence[Any], names: Sequence[str]
) -> tuple[list[Message], list[list[Message]]]:
    """The prompt with its context, and the answers to it, less the prompt where they repeat it."""
    sides = [parse_messages(side, "assistant", name) for side, name in zip(given, names, strict=True)]
    own = asked(prompt)
    before = with_context(row, own)
    return before, [_without((before, own), side, name) for side, name in zip(sides, names, strict=True)]


def _ranked(row: Row) -> tuple[list[int], list[Any]]:
    """The numbers of the completions and the completions, best first."""
    given = row["completions"]
    if not isinstance(given, list):
        raise ValueError(f"completions: wanted a list, found {type(given).__name__}")
    texts, scores, ranks = [], row.get("scores"), next((row[k] for k in RANKS if not is_missing(row.get(k))), None)
    inside: list[Any] = []
    ranks_inside: list[Any] = []
    for item in given:
        if isinstance(item, dict):
            refuse_unused(item, used=("rank",))
            texts.append(next((item[k] for k in ("response", "text", "content") if k in item), None))
            inside.append(next((item[k] for k in ("score", "overall_score", "rating") if k in item), None))
            ranks_inside.append(item.get("rank"))
        else:
            texts.append(item)
    if is_missing(scores) and inside and all(score is not None for score in inside):
        scores = inside
    if is_missing(ranks) and any(rank is not None for rank in ranks_inside):
        ranks = ranks_inside
    if is_missing(scores) and is_missing(ranks):
        return list(range(len(texts))), texts
    name, values, sign = ("ranks", ranks, -1) if is_missing(scores) else ("scores", scores, 1)
    if not isinstance(values, list) or len(values) != len(texts):
        raise ValueError(f"{name}: wanted a list of {len(texts)} numbers, one a completion")
    best: dict[float, int] = {}
    for i, value in enumerate(values):
        best.setdefault(sign * cell_number(value, name), i)
    order = [best[value] for value in sorted(best, reverse=True)]
    return order, [texts[i] for i in order]


def _as_sampled(row: Row, answers: Sequence[list[Message]], order: Sequence[int]) -> tuple[Answer, ...]:
    """The answers with their tokens, and whether they ended, where the row has such columns."""
    if all(is_missing(row.get(name)) for name in AS_SAMPLED):
        return ()
    if any(len(answer) > 1 for answer in answers):
        raise ValueError("ended: is of answers of one message, and here are several")
    rows = {name: row[name] for name in (*AS_SAMPLED, "vocabulary") if not is_missing(row.get(name))}
    for name in AS_SAMPLED:  # in the order of the row; the answers are ranked
        if isinstance(rows.get(name), list) and len(rows[name]) > max(order):
            rows[name] = [rows[name][i] for i in order]
    return tuple(from_columns(rows, [answer[0]["content"] for answer in answers]))


def _shared_turns(sides: Sequence[list[Message]]) -> int:
    """How many first messages are the prompt: those in common, up to a turn of the assistant on both sides."""
    shared = 0
    while all(len(side) > shared + 1 and side[shared] == sides[0][shared] for side in sides):
        shared += 1
    while shared and any(side[shared]["role"] != "assistant" for side in sides):
        shared -= 1
    return shared


def _without(prompts: Sequence[list[Message]], side: list[Message], name: str) -> list[Message]:
    """A side less the prompt that it repeats, with its context or without."""
    if side[0]["role"] == "assistant":
        return side
    for prompt in prompts:
        if [_said(message) for message in side[: len(prompt)]] == [_said(message) for message in prompt]:
            return side[len(prompt) :]
    raise ValueError(f"{name} begins with a prompt that is not the prompt column's")


def _said(message: Message) -> str:
    """What a message says, whatever white space is around it."""
    return json.dumps({**message, "content": message["content"].strip()}, sort_keys=True, default=str)


def _check(prompt: list[Message], answers: Sequence[list[Message]], names: Sequence[str]) -> None:
    if not prompt:
        raise ValueError(f"{' and '.join(names[:2])} do not begin with the same prompt")
    if prompt[-1]["role"] == "assistant":
        raise ValueError("the prompt ends with the assistant")
    if not any(message["content"].strip() for message in prompt):
        raise ValueError("the prompt is empty")
    for answer, name in zip(answers, names, strict=False):
        if not answer or answer[0]["role"] != "assistant" or answer[-1]["role"] != "assistant":
            raise ValueError(f"{name} does not begin and end with the assistant")
        if not answer[-1]["content"].strip():
            raise ValueError(f"{name} is empty")
    said = [tuple(map(_said, answer)) for answer in answers]
    for i, text in enumerate(said):
        if text in said[:i]:
            raise ValueError(f"{names[said.index(text)]} and {names[i]} are identical")


def _margin(row: Row) -> float | None:
    if row.get("margin") is not None:
        margin, where = cell_number(row["margin"], "margin"), "margin"
    else:
        pair = next((pair for pair in SCORES if all(row.get(name) is not None for name in pair)), None)
        if pair is None:
            return None
        margin, where = cell_number(row[pair[0]], pair[0]) - cell_number(row[pair[1]], pair[1]), " - ".join(pair)
    if margin < 0:
        raise ValueError(f"{where} is {margin:g}: the rejected answer would be the better one")
    return margin
