"""Held-out examples, read by a model, as numbers and as what a picture needs. The same for training and `evaluate`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from reward_models.examples import Example
from reward_models.metrics import (
    auc,
    calibration_error,
    estimate,
    f1_by_class,
    length_correlation,
    macro_f1,
    pair_accuracy,
    reliability,
    share,
)
from reward_models.steps import first_error
from rlhf.evaluate.best_of import best_of_curve
from rlhf.models.reward_model import aggregate_log, log_not_wrong
from rlhf.text.steps import CLASS_NAMES, CLASSES, RIGHT, WRONG

OTHER_WAYS = ("random", "shortest")  # to choose the best of n without a model

type Array = np.ndarray
type Read = Sequence[tuple[Tensor, Tensor]]  # of each completion: logits where it counts, and at its last token


@dataclass(frozen=True)
class Result:
    """Of one evaluation."""

    records: list[dict[str, Any]]  # as eval.jsonl wants them, less the step
    statistic: Callable[[Array], float]  # the first record's metric over some of the items, by number
    baselines: list[dict[str, Any]] = field(default_factory=list)  # the same, of what does not depend on the model
    histograms: dict[str, list[float]] = field(default_factory=dict)  # scores by group: chosen, rejected
    reliability: list[dict[str, float]] = field(default_factory=list)
    best_of: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # curves by way to score
    traces: list[dict[str, Any]] = field(default_factory=list)  # steps with their probability of being wrong


def _numbered(examples: Sequence[Example]) -> list[int]:
    """The number of each example's question: examples that share one share the number."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(example.question, len(numbers)) for example in examples]


# ------------------------------------------------------------------------------------------------------- preference


@dataclass(frozen=True)
class Pairs:
    """Every pair of every ranking; `better` and `worse` number the completions of all examples."""

    question: Array
    better: Array
    worse: Array
    chosen_tokens: list[Sequence[int]]
    rejected_tokens: list[Sequence[int]]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "Pairs":
        found: list[tuple[int, int, int]] = []
        tokens: list[Sequence[int]] = []
        for number, example in zip(_numbered(examples), examples, strict=True):
            found += [(number, len(tokens) + i, len(tokens) + j) for i, j in example.pairs]
            tokens += example.group.completions
        question, better, worse = (np.array(column) for column in zip(*found, strict=True))
        return cls(question, better, worse, [tokens[i] for i in better], [tokens[i] for i in worse])

    @property
    def chosen_length(self) -> Array:
        return np.array([len(tokens) for tokens in self.chosen_tokens])

    @property
    def rejected_length(self) -> Array:
        return np.array([len(tokens) for tokens in self.rejected_tokens])


def preference_result(found: Read, examples: Sequence[Example], data: str) -> Result:
    pairs = Pairs.of(examples)
    reward = np.array([float(last[0]) for _, last in found])
    return pairs_result(reward, pairs, data=data)


def pairs_result(reward: Array, pairs: Pairs, *, data: str) -> Result:
    chosen, rejected = reward[pairs.better], reward[pairs.worse]
    right = pair_accuracy(chosen, rejected)
    sure = 1 / (1 + np.exp(-np.abs(chosen - rejected)))  # how sure the model is of its own choice
    all_rewards = np.concatenate([chosen, rejected])

    def accuracy(items: Array) -> float:
        return float(right[items].mean())

    length = np.concatenate([pairs.chosen_length, pairs.rejected_length])
    both = np.concatenate([pairs.question, pairs.question])
    records = [
        share(right, pairs.question, data=data, metric="accuracy"),
        estimate(lambda i: calibration_error(sure[i], right[i]), pairs.question, data=data, metric="calibration_error"),
        estimate(lambda i: length_correlation(all_rewards[i], length[i]), both, data=data, metric="length_correlation"),
    ]
    return Result(
        records,
        accuracy,
        histograms={"chosen": chosen.tolist(), "rejected": rejected.tolist()},
        reliability=reliability(sure, right),
    )


def subset_records(found: Read, examples: Sequence[Example], subset: Sequence[str], data: str) -> list[dict[str, Any]]:
    """Of pairs, or of lists of chosen and rejected answers, with the subset of each. An example is right where each
    chosen answer is scored above each rejected one, as RewardBench 2 counts its best of four."""
    pairs = Pairs.of(examples)
    reward = np.array([float(last[0]) for _, last in found])
    of_pairs = pair_accuracy(reward[pairs.better], reward[pairs.worse])
    ends = np.cumsum([len(example.pairs) for example in examples])
    right = np.array([own.min() for own in np.split(of_pairs, ends[:-1])])
    return by_subset(right, np.array(_numbered(examples)), subset, data=data)


def by_subset(right: Array, question: Array, subset: Sequence[str], *, data: str) -> list[dict[str, Any]]:
    """RewardBench's way: the accuracy of each subset, and their mean. One entry of each argument a pair."""
    of = np.array(subset)
    masks = {name: of == name for name in dict.fromkeys(subset)}
    records = [
        share(right[mask], question[mask], data=f"{data}: {name}", metric="accuracy") for name, mask in masks.items()
    ]
    mean = {"data": data, "metric": "accuracy_mean_of_subsets", "n": len(right)}
    return [*records, mean | {"value": float(np.mean([record["value"] for record in records]))}]


# ---------------------------------------------------------------------------------------------------------- outcome


@dataclass(frozen=True)
class Solutions:
    question: Array
    right: Array
    length: Array
    tokens: list[Sequence[int]]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "Solutions":
        flat = [
            (number, right, tokens)
            for number, example in zip(_numbered(examples), examples, strict=True)
            for right, tokens in zip(example.right, example.group.completions, strict=True)
        ]
        question, right, tokens = zip(*flat, strict=True)
        length = np.array([len(own) for own in tokens])
        return cls(np.array(question), np.array(right, dtype=bool), length, list(tokens))


def outcome_result(found: Read, examples: Sequence[Example], data: str) -> Result:
    solutions = Solutions.of(examples)
    question, right = solutions.question, solutions.right
    logit = np.array([float(last[0]) for _, last in found])
    probability = 1 / (1 + np.exp(-logit))

    def area(items: Array) -> float:
        return auc(logit[items], right[items])

    records = [
        *([estimate(area, question, data=data, metric="auc")] if 0 < right.mean() < 1 else []),
        share((logit > 0) == right, question, data=data, metric="accuracy"),
        estimate(
            lambda i: calibration_error(probability[i], right[i]), question, data=data, metric="calibration_error"
        ),
        estimate(
            lambda i: length_correlation(logit[i], solutions.length[i]),
            question,
            data=data,
            metric="length_correlation",
        ),
    ]
    majority = estimate(
        lambda i: float(max(right[i].mean(), 1 - right[i].mean())), question, data=data, metric="accuracy_majority"
    )
    scores = {"model": logit, "random": np.zeros(len(right)), "shortest": -solutions.length}
    curves = best_of_curve(scores, right, question, data=data)
    best, others = ends(curves)
    return Result(
        [*records, *best],
        area,
        [majority, *others],
        histograms={"right": logit[right].tolist(), "wrong": logit[~right].tolist()},
        reliability=reliability(probability, right),
        best_of=curves,
    )


def ends(curves: dict[str, list[dict[str, Any]]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Of best-of-n curves what a table needs: the best of most by the model's scores; and, whatever the model,
    sampling once and the best of most by the other ways to score."""
    by_model: list[dict[str, Any]] = []
    others = [next(iter(curves.values()))[0]]
    for name, curve in curves.items():
        if len(curve) > 1:
            (others if name in OTHER_WAYS else by_model).append(curve[-1])
    told = [[{k: v for k, v in row.items() if k != "of"} for row in rows] for rows in (by_model, others)]
    return told[0], told[1]


# ---------------------------------------------------------------------------------------------------------- process


@dataclass(frozen=True)
class Steps:
    """Every labelled step, with what a baseline may read of it: no more than the step itself."""

    question: Array
    label: Array
    length: Array
    place: Array  # number of the step in its trace, from 0
    tokens: list[Sequence[int]]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "Steps":
        flat: list[tuple[int, int, int, Sequence[int]]] = []
        for number, example in zip(_numbered(examples), examples, strict=True):
            group = example.group
            for labels, ends, tokens, counts in zip(
                example.labels, example.step_ends, group.completions, group.loss_mask, strict=True
            ):
                spans = zip([0, *(end + 1 for end in ends)], [end + 1 for end in ends], strict=False)
                labelled = [(place, span) for place, span in enumerate(spans) if any(counts[slice(*span)])]
                flat += [
                    (number, label, place, tokens[slice(*span)])
                    for label, (place, span) in zip(labels, labelled, strict=True)
                ]
        question, label, place, tokens = zip(*flat, strict=True)
        length = np.array([len(own) for own in tokens])
        return cls(np.array(question), np.array(label), length, np.array(place), list(tokens))


def process_result(found: Read, examples: Sequence[Example], data: str) -> Result:
    steps = Steps.of(examples)
    by_trace = [logits.softmax(-1).double().numpy() for logits, _ in found]
    predicted = np.concatenate(by_trace).argmax(1) - 1
    question, label = steps.question, steps.label

    def mean_f1(items: Array) -> float:
        return macro_f1(predicted[items], label[items], CLASSES)

    records = [
        estimate(mean_f1, question, data=data, metric="macro_f1"),
        *(
            estimate(
                lambda i, c=c: f1_by_class(predicted[i], label[i], CLASSES)[c], question, data=data, metric=f"f1_{name}"
            )
            for c, name in zip(CLASSES, CLASS_NAMES, strict=True)
            if (label == c).any()
        ),
        *_first_errors(by_trace, examples, data),
    ]
    curves, others = _best_of_traces(found, examples, data), []
    if curves:
        best, others = ends(curves)
        records += best
    mistakes = np.concatenate([p[:, WRONG + 1] for p in by_trace])
    wrong = label == WRONG
    return Result(
        records,
        mean_f1,
        others,
        histograms={"wrong steps": mistakes[wrong].tolist(), "other steps": mistakes[~wrong].tolist()},
        reliability=reliability(mistakes, wrong),
        best_of=curves,
        traces=_shown(by_trace, examples),
    )


def _first_errors(by_trace: Sequence[Array], examples: Sequence[Example], data: str) -> list[dict[str, Any]]:
    """Whether the first wrong step of a solution is found, or that it has none.

    A solution is what was followed from the first step to the last. Other last steps behind its history (PRM800K's
    alternatives) are no solutions of their own: their history is judged already, and one step has no first mistake.
    """
    whole = np.array([own for example in examples for own in example.whole])
    if not whole.any():
        return []
    labels = [own for example in examples for own in example.labels]
    question = np.repeat(_numbered(examples), [len(example.labels) for example in examples])
    first = [first_error(own) for own in labels]
    placed = np.array([
        first_error([int(c) for c in p.argmax(1) - 1]) == own for p, own in zip(by_trace, first, strict=True)
    ])  # fmt: skip
    records = [share(placed[whole], question[whole], data=data, metric="first_error_accuracy")]
    wrong = whole & np.array([own is not None for own in first])
    if wrong.any():
        records.append(share(placed[wrong], question[wrong], data=data, metric="first_error_accuracy_of_wrong"))
    return records


def _best_of_traces(found: Read, examples: Sequence[Example], data: str) -> dict[str, list[dict[str, Any]]]:
    """Best-of-n curves where it is known which solutions are right."""
    right = [own for example in examples for own in example.right]
    if any(own is None for own in right):
        return {}
    logs = [log_not_wrong(logits) for logits, _ in found]
    scores = {how: np.array([aggregate_log(own, how) for own in logs]) for how in ("min", "product", "last")}
    length = np.array([len(tokens) for example in examples for tokens in example.group.completions])
    question = np.repeat(_numbered(examples), [len(example.right) for example in examples])
    scores |= {"random": np.zeros(len(right)), "shortest": -length}
    return best_of_curve(scores, np.array(right, dtype=bool), question, data=data)


def _shown(by_trace: Sequence[Array], examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Some of the first fully labelled traces, those with a mistake first: they say more."""
    labels = [own for example in examples for own in example.labels]
    texts = [own for example in examples for own in example.steps]
    full = [i for i in range(len(labels)) if len(texts[i]) == len(labels[i])][:200]
    full.sort(key=lambda i: first_error(labels[i]) is None)
    return [{"steps": texts[i], "labels": labels[i], "wrong": by_trace[i][:, WRONG + 1].tolist()} for i in full[:12]]


def step_samples(found: Read, examples: Sequence[Example], count: int) -> list[dict[str, Any]]:
    """The first answer of some examples, with what the model says of it, as samples.jsonl wants them."""
    samples, at = [], 0
    for example in examples[:count]:
        logits, last = found[at]
        at += len(example.group.completions)
        steps = bool(example.labels)
        score = math.exp(aggregate_log(log_not_wrong(logits), "min")) if steps else float(last[0])
        told: dict[str, Any] = {"score": score}
        if example.right and example.right[0] is not None:
            told["right"] = float(example.right[0])
        if steps:
            told["right steps"] = example.labels[0].count(RIGHT)
        samples.append({"prompt": example.question, "completion": example.texts[0], "reward": told, "total": score})
    return samples
