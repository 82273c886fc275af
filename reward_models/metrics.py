"""How good a reward model is: accuracy, AUC, F1, calibration, each with a 95 % interval over questions.

Answers to one question are not independent, so the unit of every interval is the question (see `rlhf.statistics`).
Arrays are numpy, one entry an item; `question` numbers the question an item belongs to.
"""

from collections.abc import Callable, Sequence
from math import isnan, sqrt
from typing import Any

import numpy as np

from rlhf.statistics import bootstrap, record, wilson

type Array = np.ndarray
BINS = 10


def estimate(statistic: Callable[[Array], float], question: Array, *, data: str, metric: str) -> dict[str, Any]:
    """An eval.jsonl record of `statistic(indices of items)`, with its bootstrap interval over questions."""
    return record(bootstrap(statistic, question), data=data, metric=metric)


def share(values: Array, question: Array, *, data: str, metric: str) -> dict[str, Any]:
    """An eval.jsonl record of the mean of values in [0, 1], with its Wilson interval over questions."""
    return record(wilson(values, question), data=data, metric=metric)


def pair_accuracy(chosen: Array, rejected: Array) -> Array:
    """1 where the chosen answer scores higher, one half for a tie."""
    return (chosen > rejected) + 0.5 * (chosen == rejected)


def ranks(values: Array) -> Array:
    """1 for the smallest; equal values share the mean of their ranks. (scipy's rankdata takes ten times as long on the
    few hundred items of a held-out set, and a bootstrap asks for ranks a thousand times.)"""
    _, number, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[number]


def auc(score: Array, right: Array) -> float:
    """P(a right item scores higher than a wrong one), a tie counting one half: Mann-Whitney's U / (n+ n-)."""
    positive, negative = int(right.sum()), int((~right).sum())
    if not positive or not negative:
        return float("nan")
    return float((ranks(score)[right].sum() - positive * (positive + 1) / 2) / (positive * negative))


def f1_by_class(predicted: Array, label: Array, classes: Sequence[int]) -> dict[int, float]:
    """2 TP / (2 TP + FP + FN) of each class; 0 for one never predicted rightly, nan for one that no label has."""
    found = {}
    for c in classes:
        is_predicted, is_label = predicted == c, label == c
        hits = np.count_nonzero(is_predicted & is_label)
        misses = np.count_nonzero(is_predicted ^ is_label)
        found[c] = 2 * hits / (2 * hits + misses) if np.count_nonzero(is_label) else float("nan")
    return found


def macro_f1(predicted: Array, label: Array, classes: Sequence[int]) -> float:
    """The mean F1 over the classes that occur in the labels: each weighs the same, however rare.

    A class that is only predicted has no F1 of its own to be averaged; each such prediction is a miss of the class that
    it should have been. (scikit-learn's default averages over the classes of labels and predictions together, which
    punishes one such slip with a whole class of F1 0; with `labels=np.unique(label)` it gives this number.)
    """
    known = [f1 for f1 in f1_by_class(predicted, label, classes).values() if not isnan(f1)]
    return sum(known) / len(known) if known else float("nan")


def reliability(probability: Array, happened: Array) -> list[dict[str, float]]:
    """Predicted against observed frequency in ten bins of equal width; empty bins are left out."""
    where = np.minimum((probability * BINS).astype(int), BINS - 1)
    return [
        {
            "predicted": float(probability[where == b].mean()),
            "observed": float(happened[where == b].mean()),
            "n": int((where == b).sum()),
        }
        for b in range(BINS)
        if (where == b).any()
    ]


def calibration_error(probability: Array, happened: Array) -> float:
    """Expected calibration error: |predicted - observed|, averaged over items by bin. Naeini et al., 2015."""
    bins = reliability(probability, happened)
    return sum(b["n"] * abs(b["predicted"] - b["observed"]) for b in bins) / len(probability)


def length_correlation(score: Array, length: Array) -> float:
    """Spearman's correlation of the score with the length: Pearson's of their ranks; 0 where one never varies."""
    if np.ptp(score) == 0 or np.ptp(length) == 0:
        return 0.0
    middle = (len(score) + 1) / 2
    a, b = ranks(score) - middle, ranks(length) - middle
    return float(a @ b / sqrt((a @ a) * (b @ b)))
