"""Preference data: rows of many shapes to rankings, rankings to shared-prefix groups, and a split by question.

A ranking is a prompt with completions, the best first; two of them make a pair. Everything that compares answers (a
preference reward model, direct alignment) reads its data through here.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from rlhf.chat import Conversation, Message, encode_conversation, end_tokens
from rlhf.data import Row, load_rows, usable
from rlhf.errors import UserError
from rlhf.groups import Group

PROMPTS = ("prompt", "instruction", "question")
SIDES = (("chosen", "rejected"), ("chosen_response", "rejected_response"))
SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
    ("chosen_avg_rating", "rejected_avg_rating"),
)
TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")  # hh-rlhf's way to write a dialogue

type Truncation = Literal["keep_start", "keep_end"]


@dataclass(frozen=True)
class Ranking:
    """A prompt and answers to it. Each completion begins and ends with a message of the assistant."""

    prompt: list[Message]
    completions: list[list[Message]]  # best first; two for a pair
    margin: float | None  # by how much the first is better than the second, where the data say so

    @property
    def question(self) -> str:
        """What the user asked first. Conversations that begin alike belong on the same side of a split."""
        return next((message["content"] for message in self.prompt if message["role"] == "user"), "")


# ---------------------------------------------------------------------------------------------------------- reading


def parse_preference(row: Row) -> Ranking:
    """One row of any of these shapes:

    - `prompt` with `chosen` and `rejected`, each text or messages; where these repeat the prompt, they are shortened;
    - `chosen` and `rejected` alone, as messages or as hh-rlhf's "Human: ..", "Assistant: .." paragraphs: the prompt is
      what both begin with, up to an answer of the assistant;
    - `prompt` with ranked `completions`, best first, or in any order with `scores` (a list beside them, or a number in
      each); of equal scores the first is kept, since a tie ranks nothing.

    `instruction` and `question` do for `prompt`. The margin is the column `margin`, or the difference of a known pair
    of columns such as score_chosen and score_rejected.

    Raises:
        ValueError: with the reason, whatever is odd about the row.
    """
    prompt = next((row[name] for name in PROMPTS if row.get(name) is not None), None)
    if row.get("completions") is not None:
        if prompt is None:
            raise ValueError(f"columns {sorted(row)}: ranked completions need a prompt")
        sides = [_messages(side, "assistant", f"completion {i}") for i, side in enumerate(_ranked(row))]
        names = [f"completion {i}" for i in range(len(sides))]
    else:
        names = next((pair for pair in SIDES if all(row.get(name) is not None for name in pair)), None)
        if names is None:
            raise ValueError(f"columns {sorted(row)}: wanted chosen and rejected, or prompt and completions")
        sides = [
            _dialogue(row[name], name) if prompt is None else _messages(row[name], "assistant", name) for name in names
        ]
    if prompt is None:
        shared = _shared_turns(sides)
        before, answers = sides[0][:shared], [side[shared:] for side in sides]
    else:
        before = _dialogue(prompt, "prompt") if _is_dialogue(prompt) else _messages(prompt, "user", "prompt")
        answers = [_without(before, side, name) for side, name in zip(sides, names, strict=True)]
    _check(before, answers, names)
    return Ranking(before, answers, _margin(row))


def _ranked(row: Row) -> list[Any]:
    """The completions, best first."""
    given = row["completions"]
    if not isinstance(given, list):
        raise ValueError(f"completions: wanted a list, found {type(given).__name__}")
    texts, scores = [], row.get("scores")
    inside: list[Any] = []
    for item in given:
        if isinstance(item, dict):
            texts.append(next((item[k] for k in ("response", "text", "content") if k in item), None))
            inside.append(next((item[k] for k in ("score", "overall_score", "rating") if k in item), None))
        else:
            texts.append(item)
    if scores is None and inside and all(score is not None for score in inside):
        scores = inside
    if scores is None:
        return texts
    if not isinstance(scores, list) or len(scores) != len(texts):
        raise ValueError(f"scores: wanted a list of {len(texts)} numbers, one a completion")
    best: dict[float, Any] = {}
    for score, text in zip(scores, texts, strict=True):
        best.setdefault(_number(score, "scores"), text)
    return [best[score] for score in sorted(best, reverse=True)]


def _messages(value: object, role: str, name: str) -> list[Message]:
    """Text as one message of `role`, or a list of messages checked."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name}: wanted text or a list of messages, found {_short(value)}")
    for message in value:
        if not isinstance(message, dict) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise ValueError(f"{name}: wanted messages with role and content as text, found {_short(message)}")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def _is_dialogue(value: object) -> bool:
    return isinstance(value, str) and re.match(r"\s*Human:", value) is not None


def _dialogue(value: object, name: str) -> list[Message]:
    """Messages, or hh-rlhf's text. Neighbours of the same speaker are joined: templates want turns to alternate."""
    if not isinstance(value, str):
        return _messages(value, "assistant", name)
    if not _is_dialogue(value):
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


def _shared_turns(sides: Sequence[list[Message]]) -> int:
    """How many first messages are the prompt: those in common, up to a turn of the assistant on both sides."""
    shared = 0
    while all(len(side) > shared + 1 and side[shared] == sides[0][shared] for side in sides):
        shared += 1
    while shared and any(side[shared]["role"] != "assistant" for side in sides):
        shared -= 1
    return shared


def _without(prompt: list[Message], side: list[Message], name: str) -> list[Message]:
    """A side less the prompt that it repeats."""
    if side[0]["role"] == "assistant":
        return side
    said = [(m["role"], m["content"].strip()) for m in side[: len(prompt)]]
    if said != [(m["role"], m["content"].strip()) for m in prompt]:
        raise ValueError(f"{name} begins with a prompt that is not the prompt column's")
    return side[len(prompt) :]


def _check(prompt: list[Message], answers: Sequence[list[Message]], names: Sequence[str]) -> None:
    if not prompt:
        raise ValueError(f"{' and '.join(names[:2])} do not begin with the same prompt")
    if prompt[-1]["role"] == "assistant":
        raise ValueError("the prompt ends with the assistant")
    if not any(message["content"].strip() for message in prompt):
        raise ValueError("the prompt is empty")
    if len(answers) < 2:
        raise ValueError(f"a ranking needs two completions that differ in score, found {len(answers)}")
    for answer, name in zip(answers, names, strict=False):
        if not answer or answer[0]["role"] != "assistant" or answer[-1]["role"] != "assistant":
            raise ValueError(f"{name} does not begin and end with the assistant")
        if not answer[-1]["content"].strip():
            raise ValueError(f"{name} is empty")
    said = [tuple((m["role"], m["content"].strip()) for m in answer) for answer in answers]
    for i, text in enumerate(said):
        if text in said[:i]:
            raise ValueError(f"{names[said.index(text)]} and {names[i]} are identical")


def _margin(row: Row) -> float | None:
    if row.get("margin") is not None:
        margin, where = _number(row["margin"], "margin"), "margin"
    else:
        pair = next((pair for pair in SCORES if all(row.get(name) is not None for name in pair)), None)
        if pair is None:
            return None
        margin, where = _number(row[pair[0]], pair[0]) - _number(row[pair[1]], pair[1]), " - ".join(pair)
    if margin < 0:
        raise ValueError(f"{where} is {margin:g}: the rejected answer would be the better one")
    return margin


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}: wanted a number, found {_short(value)}")
    return float(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def load_preferences(path: str, *, split: str, say: Callable[[str], None], size: int = 0) -> list[Ranking]:
    """The rankings of a file or Hub set; `size` > 0 takes the first so many.

    Raises:
        UserError: if the file cannot be read or more than 5 % of its rows cannot be used.
    """
    rankings = usable(load_rows(path, split=split), parse_preference, say=say)
    return rankings[:size] if size else rankings


def split_by_question[T](
    items: Iterable[T], question: Callable[[T], str], *, held_out: int, name: str = "held-out"
) -> tuple[list[T], list[T]]:
    """(the others, those kept apart): whole questions, `held_out` items at most and no more than a fifth of all.

    Which questions are kept depends on their text and `name` alone, not on a seed or on the order of rows: every run
    is judged on the same ones, and `name` tells a validation set from a held-out set.

    Raises:
        UserError: if nothing could be kept apart, or nothing would be left.
    """
    by_question: dict[str, list[T]] = {}
    for item in items:
        by_question.setdefault(question(item), []).append(item)
    room = min(held_out, sum(map(len, by_question.values())) // 5)
    order = sorted(by_question, key=lambda text: hashlib.sha256(f"{name}\n{text}".encode()).digest())
    kept: set[str] = set()
    for text in order:
        if len(by_question[text]) <= room:
            kept.add(text)
            room -= len(by_question[text])
    if not kept:
        raise UserError(
            f"data: {len(by_question)} questions are too few to keep {held_out} {name} examples apart from the others"
        )
    apart = [item for text in order if text in kept for item in by_question[text]]
    return [item for text, own in by_question.items() if text not in kept for item in own], apart


# ------------------------------------------------------------------------------------------------------- tokenizing


def to_group(
    tokenizer: PreTrainedTokenizerBase, ranking: Ranking, *, max_length: int, truncation: Truncation
) -> Group | None:
    """The prompt once, the completions as branches in the order of the ranking; None if it cannot be used.

    `counts` is True on the assistant's tokens, end tokens included. A prompt with its longest completion may take
    `max_length` tokens; beyond that,

    - `keep_end` shortens the prompt at its start: answers stay whole, and so do their end tokens. A ranking with an
      answer that leaves no room for one token of the prompt is None.
    - `keep_start` keeps the prompt whole and cuts the answers at the end, which loses their end tokens: nothing is put
      in their place, so that a model does not learn to stop there. None if the prompt leaves no room, or two
      answers become the same.

    Raises:
        ValueError: if the chat template rewrites earlier turns of a completion of several turns.
    """
    encoded = [_encode(tokenizer, ranking.prompt, completion) for completion in ranking.completions]
    prompt = encoded[0].prompt
    completions = [list(one.completion) for one in encoded]
    counts = [list(one.counts) for one in encoded]
    if truncation == "keep_end":
        room = max_length - max(map(len, completions))
        if room < 1:
            return None
        prompt = prompt[-room:]
    else:
        room = max_length - len(prompt)
        if room < 1:
            return None
        for completion, counted in zip(completions, counts, strict=True):
            if not any(counted[:room]):
                return None
            last = max(i for i, it in enumerate(counted[:room]) if it) + 1
            del completion[last:], counted[last:]
    if len({tuple(completion) for completion in completions}) < len(completions):
        return None
    return Group(prompt, completions, counts)


def to_groups(
    tokenizer: PreTrainedTokenizerBase,
    rankings: Sequence[Ranking],
    *,
    max_length: int,
    truncation: Truncation,
    say: Callable[[str], None],
) -> tuple[list[Ranking], list[Group]]:
    """The rankings that can be used, and their groups. What is left out or cut is counted and said.

    Raises:
        UserError: if nothing is left.
    """
    kept, groups = [], []
    for ranking in rankings:
        group = to_group(tokenizer, ranking, max_length=max_length, truncation=truncation)
        if group is not None:
            kept.append(ranking)
            groups.append(group)
    if not groups:
        raise UserError(
            f"data: none of the {len(rankings)} rankings fits into max_length {max_length} with {truncation}",
            hint="Raise max_length, or set truncation to " + ("keep_start" if truncation == "keep_end" else "keep_end"),
        )
    if len(groups) < len(rankings):
        left = len(rankings) - len(groups)
        say(f"data: {left} of {len(rankings)} rankings are left out: too long for max_length {max_length}")
    ends = set(end_tokens(tokenizer))
    cut = sum(completion[-1] not in ends for group in groups for completion in group.completions)
    if cut:
        say(f"data: {cut} answers are cut at max_length {max_length}, and have no end token")
    return kept, groups


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: list[Message], completion: list[Message]) -> Conversation:
    """Split behind the prompt, whatever turns the assistant had in it."""
    if len(completion) == 1:
        return encode_conversation(tokenizer, [*prompt, *completion], last_turn_only=True)
    whole = encode_conversation(tokenizer, [*prompt, *completion])
    turns_before = sum(message["role"] == "assistant" for message in prompt)
    starts = [i for i, counted in enumerate(whole.counts) if counted and (i == 0 or not whole.counts[i - 1])]
    start = starts[turns_before]
    return Conversation([*whole.prompt, *whole.completion[:start]], whole.completion[start:], whole.counts[start:])
