"""Examples to micro-batches, and the head's outputs in the order of their answers."""

from collections.abc import Sequence
from typing import NamedTuple

from reward_models.examples import Example
from reward_models.losses import Objective
from rlhf.groups import Layout, Rows, whole_micro_batches
from rlhf.models.heads import Readings


class MicroBatch(NamedTuple):
    rows: Rows
    examples: list[Example]  # in the order in which the rows count answers
    numbers: list[int]  # of the examples, among all that were cut


def into_micro_batches(examples: Sequence[Example], objective: Objective, layout: Layout) -> list[MicroBatch]:
    """Examples in micro-batches of at most `token_budget` tokens with padding, the longest first.

    Where answers of an example are compared, they stay together, and an example over the budget goes alone; elsewhere
    such an example is cut.
    """
    pieces = list(examples)
    if not objective.compares:
        pieces = [part for example in examples for part in example.parts(layout["token_budget"])]
    parts = whole_micro_batches([piece.group for piece in pieces], **layout)
    return [MicroBatch(part.rows, [pieces[n] for n in part.numbers], part.numbers) for part in parts]


def in_order(output: Readings, rows: Rows) -> Readings:
    """The outputs in the order of the micro-batch's examples and their answers, whatever the order of rows."""
    order = rows.index.argsort()
    return Readings(output.logits[order], output.mask[order], output.last_index[order])
