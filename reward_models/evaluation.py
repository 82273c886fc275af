"""Held-out examples, read by a model, as numbers and as what a picture needs. The same for training and `evaluate`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reward_models.data import Example
from reward_models.metrics import (
    auc,
    best_of_curve,
    calibration_error,
    estimate,
    f1_by_class,
    length_correlation,
    macro_f1,
    pair_accuracy,
    reliability,
)
from reward_models.steps import CLASSES, RIGHT, WRONG, aggregate, first_error

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
        estimate(accuracy, pairs.question, data=data, metric="accuracy"),
        estimate(lambda i: calibration_error(sure[i], right[i]), pairs.question, data=data, metric="calibration_error"),
        estimate(lambda i: length_correlation(all_rewards[i], length[i]), both, data=data, metric="length_correlation"),
    ]
    return Result(
        records,
        accuracy,
        histograms={"chosen": chosen.tolist(), "rejected": rejected.tolist()},
        reliability=reliability(sure, right),
    )


def by_subset(right: Array, subset: Sequence[str], *, data: str) -> list[dict[str, Any]]:
    """RewardBench's way: the accuracy of each subset, and their mean."""
    names = list(dict.fromkeys(subset))
    where = {name: np.array([s == name for s in subset]) for name in names}
    records = [
        estimate(
            lambda i, own=right[mask]: float(own[i].mean()),
            np.arange(mask.sum()),
            data=f"{data}: {name}",
            metric="accuracy",
        )
        for name, mask in where.items()
    ]
    mean = {"data": data, "metric": "accuracy_mean_of_subsets", "n": len(right)}
    return [*records, mean | {"value": float(np.mean([right[mask].mean() for mask in where.values()]))}]


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
        estimate(area, question, data=data, metric="auc"),
        estimate(lambda i: float(((logit[i] > 0) == right[i]).mean()), question, data=data, metric="accuracy"),
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
    """Every labelled step."""

    question: Array
    label: Array
    length: Array
    place: Array  # number of the step in its trace, from 0
    tokens: list[Sequence[int]]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "Steps":
        flat: list[tuple[int, int, int, Sequence[int]]] = []
        for number, example in zip(_numbered(examples), examples, strict=True):
            for labels, tokens, counts in zip(
                example.labels, example.group.completions, example.group.counts, strict=True
            ):
                ends = [i for i, counted in enumerate(counts) if counted]
                starts = [0, *(end + 1 for end in ends[:-1])]
                flat += [
                    (number, label, place, tokens[start : end + 1])
                    for place, (label, start, end) in enumerate(zip(labels, starts, ends, strict=True))
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
            for c, name in zip(CLASSES, ("wrong", "neutral", "right"), strict=True)
        ),
    ]
    # Of whole traces: where the first mistake is, and which solution of a question is the best.
    labels = [own for example in examples for own in example.labels]
    of_trace = np.repeat(_numbered(examples), [len(example.labels) for example in examples])
    placed = np.array([
        first_error([int(c) for c in p.argmax(1) - 1]) == first_error(own)
        for p, own in zip(by_trace, labels, strict=True)
    ])  # fmt: skip
    without = np.array([first_error(own) is None for own in labels])
    records.append(estimate(lambda i: float(placed[i].mean()), of_trace, data=data, metric="first_error_accuracy"))
    if (~without).any():
        records.append(
            estimate(
                lambda i: float(placed[~without][i].mean()),
                of_trace[~without],
                data=data,
                metric="first_error_accuracy_of_wrong",
            )
        )
    fine = [1 - p[:, WRONG + 1] for p in by_trace]
    right = [r for example in examples for r in example.right]
    curves, others = {}, []
    if all(r is not None for r in right):
        ways = {how: np.array([aggregate(p.tolist(), how) for p in fine]) for how in ("min", "product", "last")}
        length = np.array([len(tokens) for example in examples for tokens in example.group.completions])
        scores = ways | {"random": np.zeros(len(right)), "shortest": -length}
        curves = best_of_curve(scores, np.array(right, dtype=bool), of_trace, data=data)
        best, others = ends(curves)
        records += best
    mistakes = np.concatenate([p[:, WRONG + 1] for p in by_trace])
    wrong = label == WRONG
    texts = [own for example in examples for own in example.steps]
    shown = [i for i in range(len(labels)) if len(texts[i]) == len(labels[i])][:200]
    shown.sort(key=lambda i: without[i])  # traces with a mistake say more
    return Result(
        records,
        mean_f1,
        others,
        histograms={"wrong steps": mistakes[wrong].tolist(), "other steps": mistakes[~wrong].tolist()},
        reliability=reliability(mistakes, wrong),
        best_of=curves,
        traces=[
            {"steps": texts[i], "labels": labels[i], "wrong": by_trace[i][:, WRONG + 1].tolist()} for i in shown[:12]
        ],
    )


def step_samples(found: Read, examples: Sequence[Example], count: int) -> list[dict[str, Any]]:
    """The first answer of some examples, with what the model says of it, as samples.jsonl wants them."""
    samples, at = [], 0
    for example in examples[:count]:
        logits, last = found[at]
        at += len(example.group.completions)
        steps = bool(example.labels)
        score = float((1 - logits.softmax(-1)[:, WRONG + 1]).min()) if steps else float(last[0])
        told: dict[str, Any] = {"score": score}
        if example.right and example.right[0] is not None:
            told["right"] = float(example.right[0])
        if steps:
            told["right steps"] = example.labels[0].count(RIGHT)
        samples.append({"prompt": example.question, "completion": example.texts[0], "reward": told, "total": score})
    return samples


def mean_loss(losses: Sequence[Tensor]) -> float:
    return float(torch.cat(list(losses)).double().mean())
