"""Solutions as steps, and steps as tokens: each ends with a separator, and is judged at one token."""

import re
from collections.abc import Sequence
from typing import Literal

from transformers import PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.text.chat import encode_text

WRONG, NEUTRAL, RIGHT = -1, 0, 1
CLASSES = (WRONG, NEUTRAL, RIGHT)
CLASS_NAMES = ("wrong", "neutral", "right")
THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*(.*)", re.DOTALL)

type JudgedAt = Literal["separator", "step"]


def split_steps(completion: str) -> list[str]:
    """The lines of a solution. Of <think>..</think><answer>..</answer>: the lines of the thought, then the answer."""
    thought = THOUGHT.fullmatch(completion)
    parts = [*thought[1].split("\n"), thought[2]] if thought else completion.split("\n")
    return [part.strip() for part in parts if part.strip()]


def separator_token(tokenizer: PreTrainedTokenizerBase, separator: str) -> int:
    """The one token that ends a step. Steps are tokenized apart and it is put between, so nothing melts into it.

    Raises:
        UserError: if the tokenizer cuts the separator.
    """
    tokens = tokenizer(separator, add_special_tokens=False)["input_ids"]
    if len(tokens) != 1:
        raise UserError(
            f"separator: the model's tokenizer makes {len(tokens)} tokens of {separator!r}, wanted one",
            hint="Take a special token of the tokenizer, or a line break.",
        )
    return tokens[0]


def encode_steps(tokenizer: PreTrainedTokenizerBase, steps: Sequence[str], separator: int) -> list[list[int]]:
    """The tokens of each step with its separator."""
    return [[*encode_text(tokenizer, step), separator] for step in steps]


def join_steps(
    steps: Sequence[list[int]], labels: Sequence[int | None], *, judged_at: JudgedAt
) -> tuple[list[int], list[bool], list[int]]:
    """The tokens of all steps, at which of them a labelled step is judged, and these steps' labels."""
    tokens: list[int] = []
    loss_mask: list[bool] = []
    known: list[int] = []
    for own, label in zip(steps, labels, strict=False):
        tokens += own
        at = len(own) - (1 if judged_at == "separator" else 2)
        loss_mask += [label is not None and i == at for i in range(len(own))]
        known += [] if label is None else [label]
    return tokens, loss_mask, known
