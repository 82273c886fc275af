"""Majority vote, also called self-consistency: of k sampled answers to a problem, the one that most of them give.

Wang et al., 2022, "Self-Consistency Improves Chain of Thought Reasoning in Language Models". What votes is the answer
that the verifier reads in a completion; a completion without one does not vote. Where answers tie for most votes, each
counts by its share of the tie.
"""

from collections.abc import Hashable, Sequence
from math import comb

import numpy as np

from rlhf.statistics import Array

EXACT_UP_TO = 256  # answers to a problem; of more, subsets are drawn
SUBSETS = 2000  # that are drawn, the same ones every time


def majority_at(votes: Sequence[Hashable | None], gold: Array, sizes: Sequence[int]) -> dict[int, float]:
    """E[gold of the majority's answer] of k answers drawn without replacement from m, for each k of `sizes`.

    Over all subsets, exactly, of up to EXACT_UP_TO answers; of more, the mean over SUBSETS drawn subsets.

    Args:
        votes: what each of the m answers votes for; None does not vote, and subsets without a vote are worth 0.
        gold: what each answer is worth (m,), such as 1 where it is right; of equal votes, their mean.

    >>> majority_at(["5", "5", "6", "7"], np.array([1.0, 1.0, 0.0, 0.0]), [1, 2, 4])
    {1: 0.5, 2: 0.5, 4: 1.0}
    """
    assert 1 <= min(sizes) <= max(sizes) <= len(votes) == len(gold)
    names = dict.fromkeys(vote for vote in votes if vote is not None)
    number = {name: i for i, name in enumerate(names)}
    voted = np.array([number.get(vote, len(names)) for vote in votes])  # len(names): for nobody
    worth = np.bincount(voted, weights=gold, minlength=len(names) + 1)[:-1]
    count = np.bincount(voted, minlength=len(names) + 1)
    worth /= np.maximum(count[:-1], 1)
    if len(votes) > EXACT_UP_TO:
        return _drawn(voted, worth, sizes)
    expected = _over_all_subsets(count[:-1], worth, int(count[-1]), max(sizes))
    return {k: float(expected[k] / comb(len(votes), k)) for k in sizes}


def _over_all_subsets(count: Array, worth: Array, silent: int, most: int) -> Array:
    """The sum of the majority's worth over all subsets of each size up to `most`: (most + 1,).

    For each number v of votes that the majority may have, a product of polynomials in the size of a subset: answers
    that were given less often than v can be taken any number of times, those given more often fewer than v times, or
    v times, whereby they tie. Row: size of the subset. Column: how many answers tie at v votes.
    """
    total = np.zeros(most + 1)
    for v in range(1, int(count.max(initial=0)) + 1):
        columns = most // v + 1
        subsets, summed_worth = np.zeros((2, most + 1, columns))
        subsets[:, 0] = _binomials(silent + int(count[count < v].sum()), most, most)
        for n, own in zip(count[count >= v].tolist(), worth[count >= v].tolist(), strict=True):
            fewer = _products(_binomials(n, v - 1, most))
            tied, tied_worth = comb(n, v) * _one_more(subsets, v), comb(n, v) * _one_more(summed_worth, v)
            subsets, summed_worth = fewer @ subsets + tied, fewer @ summed_worth + tied_worth + own * tied
        total += (summed_worth[:, 1:] / np.arange(1, columns)).sum(1)
    return total


def _binomials(n: int, most_taken: int, size: int) -> Array:
    """C(n, x) for x = 0 ... size, and 0 above `most_taken`."""
    return np.array([comb(n, x) if x <= most_taken else 0 for x in range(size + 1)], dtype=float)


def _products(polynomial: Array) -> Array:
    """The matrix that multiplies other polynomials by this one, up to its own size."""
    power = np.arange(len(polynomial))
    difference = power[:, None] - power
    return np.where(difference >= 0, polynomial[difference], 0.0)


def _one_more(table: Array, v: int) -> Array:
    """The table after one more answer has got v votes: v rows down, one column to the right."""
    moved = np.zeros_like(table)
    moved[v:, 1:] = table[:-v, :-1]
    return moved


def _drawn(voted: Array, worth: Array, sizes: Sequence[int]) -> dict[int, float]:
    rng = np.random.default_rng(0)
    orders = np.array([rng.permutation(len(voted)) for _ in range(SUBSETS)])
    found = {}
    for k in sizes:
        count = np.stack([np.bincount(voted[order[:k]], minlength=len(worth) + 1)[:-1] for order in orders])
        first = (count == count.max(1, keepdims=True)) & (count > 0)
        found[k] = float(((first @ worth) / np.maximum(first.sum(1), 1)).mean())
    return found
