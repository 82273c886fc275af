"""Estimators from m sampled answers to a problem: what n of them are worth to whoever may choose among them.

    pass@k     the choice of whoever knows the right answer: is one of k right?
    best-of-n  the choice of a proxy, such as a reward model: how good is the answer of n that it prefers?

Both are expectations over all subsets of the m answers, exactly, so they vary less than what one subset gives, and are
unbiased for n fresh samples. Majority vote has a file of its own, `majority.py`. Only numpy is needed.
"""

from collections.abc import Mapping
from math import log
from typing import Any

import numpy as np

from rlhf.statistics import Array, record, t_interval, wilson


def pass_at_k(m: int, c: int, k: int) -> float:
    """P(one of k answers is right), of m sampled answers with c right ones: 1 - C(m-c, k) / C(m, k).

    Computed as 1 - Π_{j=m-c+1}^{m} (1 - k/j), in which nothing grows large. Chen et al., 2021, "Evaluating Large
    Language Models Trained on Code", equation 1 and figure 3.

    >>> pass_at_k(4, 1, 2)  # three of the six pairs have the right answer
    0.5
    """
    assert 1 <= k <= m, f"k = {k} of m = {m} answers"
    if m - c < k:
        return 1.0
    return float(1 - np.prod(1 - k / np.arange(m - c + 1, m + 1)))


def chances_of_best(m: int, n: int) -> Array:
    """P(the answer at place i of m is the best of n drawn without replacement), best place first: (m,).

    C(m-1-i, n-1) / C(m, n), the other n-1 being behind it; each from the one before, in which nothing grows large.
    """
    assert 1 <= n <= m, f"n = {n} of m = {m} answers"
    place = np.arange(1, m)
    ratio = np.maximum(m - place - n + 1, 0) / (m - place)
    return n / m * np.concatenate([[1.0], np.cumprod(ratio)])


def best_of(proxy: Array, gold: Array, n: int) -> float:
    """E[gold of the answer that the proxy prefers, of n drawn without replacement], over all subsets of n, exactly.

    Answers of equal proxy score share their mean gold value, which is the mean over their orders. Only equal scores are
    ties, however close others are: probabilities of many steps are all close to 0.

    Args:
        proxy: the score that chooses, one for each answer.
        gold: what the chosen answer is worth, on any scale: right or wrong, a reward, the proxy itself.
    """
    _, tied = np.unique(proxy, return_inverse=True)
    mean_of_tied = np.bincount(tied, weights=gold) / np.bincount(tied)
    return float(chances_of_best(len(proxy), n) @ mean_of_tied[np.sort(tied)[::-1]])


def kl_of_best_of(n: float) -> float:
    """log n - (n-1)/n, nats: KL(best-of-n || policy) if no two answers ever tie, and an upper bound if they do.

    Beirami et al., 2024, "Theoretical guarantees on the best-of-n alignment policy".
    """
    return log(n) - (n - 1) / n


def measured_kl_of_best_of(proxy: Array, n: int) -> float:
    """KL(best-of-n || policy) in nats, of a policy that gives each of the m scored answers with probability 1/m.

    Of the n answers, those of the best score are equally likely, so best-of-n changes how likely a score v is, and not
    which of its answers is given. With p the share of answers of score v, and F the share of scores up to v,

        KL = sum_v q log(q / p),  q = F^n - (F - p)^n

    Ties make it smaller than `kl_of_best_of`: scores of 0 and 1 cannot take it beyond log(1 / share of ones). Without
    any it is smaller by about n^2 / (24 m^2), since n answers drawn with replacement may still repeat one of the m.

    >>> all_distinct, right_or_wrong = np.arange(1000), np.arange(1000) < 250
    >>> [round(measured_kl_of_best_of(proxy, 16), 3) for proxy in (all_distinct, right_or_wrong)]
    [1.835, 1.319]
    >>> round(kl_of_best_of(16), 3)
    1.835
    """
    _, count = np.unique(proxy, return_counts=True)
    p = count / len(proxy)
    up_to = np.cumsum(count) / len(proxy)
    q = up_to**n - (up_to - p) ** n
    return float(np.sum(q * np.log(np.maximum(q, np.finfo(float).tiny) / p)))


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`: the sizes that a curve is measured at."""
    return [2**i for i in range(most.bit_length())]


def best_of_curve(
    scores: Mapping[str, Array], gold: Array, question: Array, *, data: str
) -> dict[str, list[dict[str, Any]]]:
    """Best-of-n for n = 1, 2, 4, ... by each way to score, up to the median number of answers to a question; questions
    with fewer answers than the largest n are left out.

    The interval is over questions: Wilson's for gold values in [0, 1], else Student's.

    Returns:
        For each way to score, eval.jsonl records with n as `of`. The metric of way "model" is `best_of_4`, that of any
        other `best_of_4_random`.
    """
    items = [np.flatnonzero(question == q) for q in np.unique(question)]
    sizes = powers_of_two(int(np.median([len(own) for own in items])))
    items = [own for own in items if len(own) >= sizes[-1]]
    interval = wilson if ((gold >= 0) & (gold <= 1)).all() else t_interval
    curves: dict[str, list[dict[str, Any]]] = {}
    for name, score in scores.items():
        suffix = "" if name == "model" else f"_{name}"
        curves[name] = []
        for n in sizes:
            found = interval([best_of(score[own], gold[own], n) for own in items])
            curves[name].append(record(found, data=data, metric=f"best_of_{n}{suffix}") | {"of": n})
    return curves
