"""How good a reward model is: accuracy, AUC, F1, calibration, best-of-n, each with a 95 % interval over questions.

Answers to one question are not independent, so intervals resample whole questions (cluster bootstrap; Efron and
Tibshirani, 1993, chapter 8). Arrays are numpy, one entry an item; `question` numbers the question an item belongs to.
"""

from collections.abc import Callable, Mapping, Sequence
from math import comb
from typing import Any

import numpy as np
from scipy.stats import rankdata, spearmanr

type Array = np.ndarray
RESAMPLES = 1000
BINS = 10
DIGITS = 5  # scores that agree so far are tied: traces with a step in common have the same minimum but for rounding


def estimate(
    statistic: Callable[[Array], float], question: Array, *, data: str, metric: str, n: int | None = None
) -> dict[str, Any]:
    """An eval.jsonl record of `statistic(indices of items)`, with its percentile interval over questions."""
    items = [np.flatnonzero(question == q) for q in np.unique(question)]
    rng = np.random.default_rng(0)
    drawn = (np.concatenate([items[i] for i in rng.integers(len(items), size=len(items))]) for _ in range(RESAMPLES))
    values = np.array([statistic(indices) for indices in drawn])
    value = statistic(np.arange(len(question)))
    low, high = np.nanquantile(values, [0.025, 0.975]) if np.isfinite(values).any() else (value, value)
    # A percentile interval of a statistic at its bound may leave the value itself out by rounding.
    low, high = min(float(low), value), max(float(high), value)
    return {"data": data, "metric": metric, "value": value, "n": n or len(question), "low": low, "high": high}


def pair_accuracy(chosen: Array, rejected: Array) -> Array:
    """1 where the chosen answer scores higher, one half for a tie."""
    return (chosen > rejected) + 0.5 * (chosen == rejected)


def auc(score: Array, right: Array) -> float:
    """P(a right item scores higher than a wrong one), a tie counting one half: Mann-Whitney's U / (n+ n-)."""
    positive, negative = int(right.sum()), int((~right).sum())
    if not positive or not negative:
        return float("nan")
    return float((rankdata(score)[right].sum() - positive * (positive + 1) / 2) / (positive * negative))


def f1_by_class(predicted: Array, label: Array, classes: Sequence[int]) -> dict[int, float]:
    """2 TP / (2 TP + FP + FN) of each class; 0 for a class that is never predicted."""
    found = {}
    for c in classes:
        hits = int(((predicted == c) & (label == c)).sum())
        misses = int(((predicted == c) ^ (label == c)).sum())
        found[c] = 2 * hits / (2 * hits + misses) if hits else 0.0
    return found


def macro_f1(predicted: Array, label: Array, classes: Sequence[int]) -> float:
    """The mean over the classes that occur in `classes`: each weighs the same, however rare."""
    return float(np.mean(list(f1_by_class(predicted, label, classes).values())))


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
    """Spearman's rank correlation of the score with the length; 0 where one of them never varies."""
    if np.ptp(score) == 0 or np.ptp(length) == 0:
        return 0.0
    return float(spearmanr(score, length).statistic)


def best_of(score: Array, right: Array, n: int) -> float:
    """E[right(the best-scored of n answers drawn without replacement)] over all subsets of n, exactly.

    With the N answers ordered by falling score, the one at place i (from 0) is the best of a random subset with
    probability C(N-1-i, n-1) / C(N, n). Answers of equal score share their mean: ties are broken at random.
    """
    score = np.round(score, DIGITS)
    order = np.argsort(-score, kind="stable")
    values = right[order].astype(float)
    ordered = score[order]
    for s in np.unique(ordered):
        values[ordered == s] = values[ordered == s].mean()
    size = len(score)
    weights = [comb(size - 1 - i, n - 1) / comb(size, n) for i in range(size)]
    return float(np.dot(weights, values))


def best_of_curve(
    scores: Mapping[str, Array], right: Array, question: Array, *, data: str
) -> dict[str, list[dict[str, Any]]]:
    """Best-of-n accuracy for n = 1, 2, 4, ... by each way to score; questions with fewer answers are left out."""
    items = [np.flatnonzero(question == q) for q in np.unique(question)]
    most = int(np.median([len(own) for own in items]))
    sizes = [2**i for i in range(most.bit_length()) if 2**i <= most]
    items = [own for own in items if len(own) >= sizes[-1]]
    curves: dict[str, list[dict[str, Any]]] = {}
    for name, score in scores.items():
        curves[name] = []
        for n in sizes:
            values = np.array([best_of(score[own], right[own], n) for own in items])
            suffix = "" if name == "model" else f"_{name}"
            record = estimate(
                lambda i, values=values: float(values[i].mean()),
                np.arange(len(values)),
                data=data,
                metric=f"best_of_{n}{suffix}",
            )
            curves[name].append(record | {"of": n})
    return curves
