"""Shared-prefix rows: all completions of a prompt in one row, with the prompt once.

    row        p p p p a a a b b c c c c      tokens: P + sum(L), instead of G * P + sum(L)
    position   0 1 2 3 4 5 6 4 5 4 5 6 7      restarts after the prompt for each completion
    branch     0 0 0 0 1 1 1 2 2 3 3 3 3      0 = the prompt

A token attends to the earlier tokens of the prompt and of its own branch, so log-probabilities are those of separate
rows. Several groups may share a row (packing): a token attends only to its own group.

A padded row is the special case of one group with one completion: plain causal attention, without a mask. Architectures
that take no custom masks use padded rows, and the tests compare with them.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple, TypedDict

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """A prompt with its completions, as token ids.

    `loss_mask[i][j]` says whether token j of completion i is in the loss (default: all are).
    """

    prompt: Sequence[int]
    completions: Sequence[Sequence[int]]
    loss_mask: Sequence[Sequence[bool]] = field(default=())

    def split(self) -> list["Group"]:
        """One group for each completion: the padded layout."""
        return [self._take([i]) for i in range(len(self.completions))]

    def _take(self, which: Sequence[int]) -> "Group":
        return replace(
            self,
            completions=[self.completions[i] for i in which],
            loss_mask=[self.loss_mask[i] for i in which] if self.loss_mask else (),
        )


@dataclass(frozen=True)
class Rows:
    """A micro-batch as the input of a model: r rows of length l that hold n completions of at most t tokens."""

    input_ids: Int[Tensor, "r l"]
    position_ids: Int[Tensor, "r l"]
    attention_mask: Bool[Tensor, "r 1 l l"] | None  # None: plain causal
    logit_index: Int[Tensor, "n t"]  # index, in the flattened rows, of the state that predicts each token
    labels: Int[Tensor, "n t"]  # the tokens of the completions
    mask: Bool[Tensor, "n t"]  # True: the token is in the loss
    index: Int[Tensor, " n"]  # number of the completion in the whole batch, counted through the groups in order
    token_index: Int[Tensor, " m"]  # index, in the flattened rows, of each token that is not padding
    bounds: list[list[int]]  # of each group among these m tokens: its start, the prompt's end, the completions' ends

    def in_order(self, values: Tensor) -> Tensor:
        """Values of the completions of these rows (n, ...), in the order of the groups and their completions."""
        return values[self.index.argsort()]

    def to(self, device: torch.device) -> "Rows":
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {name: x.to(device, non_blocking=True) for name, x in parts.items() if isinstance(x, Tensor)}
        return replace(self, **moved)


@dataclass(frozen=True)
class _Piece:
    """Completions of one group that share a row."""

    group: Group
    sequence: list[int]

    @property
    def tokens(self) -> int:
        return len(self.group.prompt) + sum(map(len, self.group.completions))


class Part(NamedTuple):
    """A micro-batch of whole groups."""

    numbers: list[int]  # of its groups, in the order in which `rows.index` counts completions
    rows: Rows


class Layout(TypedDict):
    """How groups become rows: arguments of `micro_batches` and `score`."""

    token_budget: int
    shared_prefix: bool


def micro_batches(
    groups: Sequence[Group], *, token_budget: int, shared_prefix: bool = True, pack_to: int = 0
) -> list[Rows]:
    """Cut groups into micro-batches of at most `token_budget` tokens, padding included, longest first.

    Sorting by length reduces padding; with the longest first, an out-of-memory error comes at once. A group longer than
    the budget is split, and its prompt repeated; a completion longer than the budget gets a micro-batch of its own.
    `pack_to` > 0 puts several short groups in one row of up to that many tokens. This needs what shared rows need, a
    custom mask and positions that restart, so without `shared_prefix` nothing is packed.
    """
    pieces = sorted(_pieces(groups, token_budget, shared_prefix), key=lambda piece: -piece.tokens)
    packed = _pack(pieces, pack_to if shared_prefix else 0)
    sizes = [(1, sum(piece.tokens for piece in row)) for row in packed]
    return [_rows([packed[i] for i in numbers]) for numbers in _cut(sizes, token_budget)]


def whole_micro_batches(groups: Sequence[Group], *, token_budget: int, shared_prefix: bool = True) -> list[Part]:
    """`micro_batches` that never split a group, for losses that compare the completions of a group."""

    def size(group: Group) -> tuple[int, int]:
        lengths = [len(completion) for completion in group.completions]
        together = (1, len(group.prompt) + sum(lengths))
        return together if shared_prefix else (len(lengths), len(group.prompt) + max(lengths))

    parts = []
    for numbers in _cut([size(group) for group in groups], token_budget):
        pieces = _pieces([groups[i] for i in numbers], math.inf, shared_prefix)
        rows = _rows([[piece] for piece in sorted(pieces, key=lambda piece: -piece.tokens)])
        parts.append(Part(numbers, rows))
    return parts


def _cut(sizes: Sequence[tuple[int, int]], budget: int) -> list[list[int]]:
    """Cut items of (rows, width), sorted by width, into the micro-batches of the least total cost.

    The cost of a micro-batch is its rows times its largest width (so padding counts), plus a sixteenth of the budget
    for its calls and its pass over all gradients; without that, every item would be a micro-batch. Dynamic programming
    from the last item to the first: `cheapest[start]` is the least cost of the items from `start` on.
    """
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i][1])
    cheapest = [0.0] * (len(order) + 1)
    stop = [0] * len(order)
    for start in reversed(range(len(order))):
        rows = 0
        width = sizes[order[start]][1]
        cheapest[start] = math.inf
        for end in range(start + 1, len(order) + 1):
            rows += sizes[order[end - 1]][0]
            if rows * width > budget and end > start + 1:
                break
            cost = rows * width + budget / 16 + cheapest[end]
            if cost <= cheapest[start]:
                cheapest[start] = cost
                stop[start] = end
    cut = []
    start = 0
    while start < len(order):
        cut.append(order[start : stop[start]])
        start = stop[start]
    return cut


def _pieces(groups: Sequence[Group], budget: float, shared_prefix: bool) -> Iterable[_Piece]:
    first = 0
    for group in groups:
        if not group.prompt or not all(group.completions):
            raise ValueError("a group needs a prompt and completions of at least one token each")
        sequence = list(range(first, first + len(group.completions)))
        first += len(sequence)
        if not shared_prefix:
            yield from (_Piece(single, [i]) for single, i in zip(group.split(), sequence, strict=True))
            continue
        part: list[int] = []
        tokens = len(group.prompt)
        for i, completion in enumerate(group.completions):
            if part and tokens + len(completion) > budget:
                yield _Piece(group._take(part), [sequence[j] for j in part])
                part, tokens = [], len(group.prompt)
            part.append(i)
            tokens += len(completion)
        yield _Piece(group._take(part), [sequence[j] for j in part])


def _pack(pieces: list[_Piece], pack_to: int) -> list[list[_Piece]]:
    """First-fit packing, longest piece first. Returns the rows, the longest first."""
    rows: list[list[_Piece]] = []
    room: list[int] = []
    for piece in pieces:
        fit = next((i for i, left in enumerate(room) if piece.tokens <= left), None)
        if fit is None:
            rows.append([piece])
            room.append(pack_to - piece.tokens)
        else:
            rows[fit].append(piece)
            room[fit] -= piece.tokens
    return sorted(rows, key=lambda row: -sum(piece.tokens for piece in row))


def _rows(packed: list[list[_Piece]]) -> Rows:
    r = len(packed)
    length = sum(piece.tokens for piece in packed[0])
    input_ids = torch.zeros(r, length, dtype=torch.long)
    position_ids = torch.arange(length).repeat(r, 1)  # a restart, even in padding, means packing to transformers
    group_of = torch.full((r, length), -1)  # -1 = padding
    branch = torch.zeros(r, length, dtype=torch.long)
    completions: list[tuple[Sequence[int], Sequence[bool] | None, int, int, int]] = []
    bounds: list[list[int]] = []

    for row, pieces in enumerate(packed):
        at = 0
        for number, piece in enumerate(pieces):
            prompt = piece.group.prompt
            last_of_prompt = row * length + at + len(prompt) - 1
            start = at
            bounds.append([bounds[-1][-1] if bounds else 0])
            for b, tokens in enumerate([prompt, *piece.group.completions]):
                end = at + len(tokens)
                input_ids[row, at:end] = torch.as_tensor(tokens)
                position_ids[row, at:end] = torch.arange(len(tokens)) + (len(prompt) if b else 0)
                branch[row, at:end] = b
                bounds[-1].append(bounds[-1][-1] + len(tokens))
                if b:
                    loss_mask = piece.group.loss_mask[b - 1] if piece.group.loss_mask else None
                    completions.append((tokens, loss_mask, piece.sequence[b - 1], last_of_prompt, row * length + at))
                at = end
            group_of[row, start:at] = number

    n = len(completions)
    t = max(len(tokens) for tokens, *_ in completions)
    logit_index = torch.zeros(n, t, dtype=torch.long)
    labels = torch.zeros(n, t, dtype=torch.long)
    mask = torch.zeros(n, t, dtype=torch.bool)
    for i, (tokens, loss_mask, _, before, first) in enumerate(completions):
        size = len(tokens)
        logit_index[i, 0] = before
        logit_index[i, 1:size] = torch.arange(first, first + size - 1)
        labels[i, :size] = torch.as_tensor(tokens)
        mask[i, :size] = True if loss_mask is None else torch.as_tensor(loss_mask)

    single = all(len(pieces) == 1 and len(pieces[0].sequence) == 1 for pieces in packed)
    return Rows(
        input_ids=input_ids,
        position_ids=position_ids,
        attention_mask=None if single else _attention_mask(group_of, branch),
        logit_index=logit_index,
        labels=labels,
        mask=mask,
        index=torch.tensor([sequence for _, _, sequence, _, _ in completions]),
        token_index=(group_of >= 0).flatten().nonzero().squeeze(1),
        bounds=bounds,
    )


def _attention_mask(group_of: Int[Tensor, "r l"], branch: Int[Tensor, "r l"]) -> Bool[Tensor, "r 1 l l"]:
    """Whether query i attends to key j: j is not later, in the same group, and in the prompt or in the branch of i."""
    length = group_of.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same_group = group_of[:, :, None] == group_of[:, None, :]
    prompt_or_own = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    return (causal & same_group & prompt_or_own)[:, None]
