"""Training and held-out examples, split by question."""

import hashlib
from collections.abc import Callable, Iterable

from rlhf.errors import UserError


def split_by_question[T](
    items: Iterable[T], question: Callable[[T], str], *, held_out: int, name: str = "held-out"
) -> tuple[list[T], list[T]]:
    """Split into (training items, held-out items) by whole questions.

    At most `held_out` items and at most a fifth of all are held out. Questions that differ only in white space are one.
    Which questions are held out depends on their text and on `name`, not on a seed or the order of rows: every run is
    evaluated on the same ones. Another `name` gives another set, such as a validation set.

    Raises:
        UserError: there are too few questions to hold one out.
    """
    by_question: dict[str, list[T]] = {}
    texts: dict[str, str] = {}  # of questions that differ only in white space, the one that sorts first
    for item in items:
        text = question(item)
        same = " ".join(text.split())
        by_question.setdefault(same, []).append(item)
        texts[same] = min(text, texts.get(same, text))
    room = min(held_out, sum(map(len, by_question.values())) // 5)
    order = sorted(by_question, key=lambda same: hashlib.sha256(f"{name}\n{texts[same]}".encode()).digest())
    chosen: set[str] = set()
    for text in order:
        if len(by_question[text]) <= room:
            chosen.add(text)
            room -= len(by_question[text])
    if not chosen:
        number = "1 question is" if len(by_question) == 1 else f"{len(by_question)} questions are"
        examples = sum(map(len, by_question.values()))
        raise UserError(
            f"data: {number} too few to keep {name} examples apart: at most a fifth of {examples}, by whole questions",
            hint="Five questions with equally many examples are enough.",
        )
    train = [item for text, items in by_question.items() if text not in chosen for item in items]
    return train, [item for text in order if text in chosen for item in by_question[text]]
