"""How far a judge can be trusted: agreement with gold verdicts, and whether place or length decides for it.

Each pair has a right answer, which is shown first or second by the toss of a coin, so a judge that looks at the places
alone is right in half of the pairs. Intervals are over questions, which are what is independent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from rlhf.data.answers import text_of
from rlhf.data.preferences import Ranking
from rlhf.judges.judge import Comparison, Judge, Pair, compare
from rlhf.statistics import Estimate, record, t_interval, wilson

METRICS = {
    "accuracy_one_order": "Agreement with the gold verdict, pairs shown in one order; ties count one half",
    "accuracy": "The same with both orders averaged",
    "accuracy_gain": "The difference of the two, on the same pairs",
    "first_chosen_one_order": "Share of verdicts for the answer that is shown first; without a bias 0.5",
    "first_chosen": "The same with both orders averaged",
    "first_probability": "Mean probability that the judge gives the answer that is shown first, in both orders",
    "changed_by_order": "Share of pairs whose verdict is another one when the order is swapped",
    "longer_chosen": "Share of pairs of unequal length in which the longer answer is chosen, both orders averaged",
    "longer_is_right": "Share of these pairs in which the longer answer is the right one",
    "accuracy_right_is_longer": "Agreement where the right answer is the longer one",
    "accuracy_right_is_shorter": "Agreement where the right answer is the shorter one",
    "no_verdict": "Share of pairs for which no verdict came in one of the orders; the other metrics leave them out",
}


@dataclass(frozen=True)
class GoldPair:
    """A pair in the order it is shown in, of which it is known which answer is right."""

    pair: Pair
    first_is_right: bool
    question: str  # pairs of one question are not independent


def gold_pairs(rankings: Sequence[Ranking], *, seed: int) -> list[GoldPair]:
    """Of each ranking the best and the worst answer, in an order that a coin decides."""
    pairs = []
    for i, ranking in enumerate(rankings):
        right, wrong = _answer(ranking, 0), _answer(ranking, -1)
        first_is_right = Random(f"{seed} {i} {ranking.question}").random() < 0.5
        first, second = (right, wrong) if first_is_right else (wrong, right)
        pairs.append(GoldPair(Pair(ranking.prompt, first, second), first_is_right, ranking.question))
    return pairs


def _answer(ranking: Ranking, which: int) -> Any:
    return ranking.answers[which] if ranking.answers else ranking.completions[which][-1]["content"]


def audit(judge: Judge, pairs: Sequence[GoldPair], *, data: str) -> list[dict[str, Any]]:
    """eval.jsonl records, less the step, of all `METRICS` that can be measured."""
    return records_of(compare(judge, [it.pair for it in pairs]), pairs, data=data)


def records_of(comparisons: Sequence[Comparison], pairs: Sequence[GoldPair], *, data: str) -> list[dict[str, Any]]:
    """The records, of both verdicts on each pair."""
    missing = np.array([it.mean is None for it in comparisons])
    question = np.array([it.question for it in pairs])
    found = {"no_verdict": wilson(missing, question)}
    if not missing.all():
        known = [(one, it) for one, it in zip(comparisons, pairs, strict=True) if one.mean is not None]
        found = _measured(known, question[~missing]) | found
    return [record(found[name], data=data, metric=name) for name in METRICS if name in found]


def _measured(known: Sequence[tuple[Comparison, GoldPair]], question: np.ndarray) -> dict[str, Estimate]:
    shown_first = np.array([one.shown_first for one, _ in known], dtype=float)
    shown_second = np.array([one.shown_second for one, _ in known], dtype=float)
    right = np.array([it.first_is_right for _, it in known])
    longer = np.array([np.sign(_length(it.pair.first) - _length(it.pair.second)) for _, it in known])
    one_order, both = _chosen(shown_first), _chosen((shown_first + shown_second) / 2)
    agrees_in_one, agrees = np.where(right, one_order, 1 - one_order), np.where(right, both, 1 - both)
    right_is_longer = np.where(right, longer, -longer)
    uneven = longer != 0

    def share(values: np.ndarray, where: np.ndarray | None = None, by: Callable[..., Estimate] = wilson) -> Estimate:
        chosen = np.ones(len(values), dtype=bool) if where is None else where
        return by(values[chosen], question[chosen])

    found = {
        "accuracy_one_order": share(agrees_in_one),
        "accuracy": share(agrees),
        "accuracy_gain": share(agrees - agrees_in_one, by=t_interval),
        "first_chosen_one_order": share(one_order),
        "first_chosen": share(both),
        "first_probability": share((shown_first + 1 - shown_second) / 2, by=t_interval),
        "changed_by_order": share((one_order != _chosen(shown_second)).astype(float)),
    }
    if uneven.any():
        found["longer_chosen"] = share(np.where(longer > 0, both, 1 - both), uneven)
        found["longer_is_right"] = share((right_is_longer > 0).astype(float), uneven)
    for name, sign in (("accuracy_right_is_longer", 1), ("accuracy_right_is_shorter", -1)):
        if (right_is_longer == sign).any():
            found[name] = share(agrees, right_is_longer == sign)
    return found


def _chosen(p_first: np.ndarray) -> np.ndarray:
    """1 where the first answer is chosen, 0 the second, 0.5 neither."""
    return (np.sign(p_first - 0.5) + 1) / 2


def _length(answer: Any) -> int:
    """In characters, which are the same for every judge."""
    return len(text_of(answer))
