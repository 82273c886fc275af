"""What needs no understanding: a classifier of length alone, and one of which tokens occur. Tried before training.

Data that these solve teach a reward model their shortcut: on its own test set it looks perfect, and on answers without
the shortcut it is blind. A reward model is worth what it is better than them. Logistic regression with L2, fitted on
the training part, measured on the held-out part.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

import numpy as np
import torch

from reward_models.examples import Example
from reward_models.held_out_metrics import Pairs, Result, Solutions, Steps
from reward_models.metrics import auc, estimate, macro_f1, pair_accuracy
from rlhf.text.steps import CLASSES

MOST_TOKENS, MOST_ITEMS = 1000, 20_000
L2 = 1e-3
HALF_WAY = 0.5  # from chance to perfect: beyond this a shortcut explains most of the label

type Array = np.ndarray


@dataclass(frozen=True)
class Shortcut:
    """A classifier that understands nothing, on held-out data."""

    name: str
    metric: str
    statistic: Callable[[Array], float]  # the metric over items by number, as a `Result` of the same examples has it
    question: Array  # of each item
    data: str

    @cached_property
    def record(self) -> dict[str, Any]:
        return estimate(self.statistic, self.question, data=self.data, metric=f"{self.metric}_{self.name}")

    def surpassed_by(self, result: Result) -> dict[str, Any]:
        """How much better the model is. Both are judged on the same resampled questions (paired bootstrap), so that
        questions which are hard for both do not widen the interval."""

        def gain(items: Array) -> float:
            return result.statistic(items) - self.statistic(items)

        return estimate(gain, self.question, data=self.data, metric=f"{self.metric}_above_{self.name}")


def add_shortcuts(result: Result, shortcuts: Sequence[Shortcut]) -> None:
    """To a result: how much better than each shortcut it is, and what each scores, where that can be measured."""
    above = [shortcut.surpassed_by(result) for shortcut in shortcuts]
    result.records.extend(record for record in above if math.isfinite(record["value"]))
    result.baselines.extend(s.record for s in shortcuts if math.isfinite(s.record["value"]))


def of_preference(train: Sequence[Example], held_out: Sequence[Example], *, data: str) -> list[Shortcut]:
    """Pair accuracy of the sign of the length difference, and of token counts."""
    learned, judged = Pairs.of(_some(train)), Pairs.of(held_out)
    length = [p.chosen_length - p.rejected_length for p in (learned, judged)]
    words = _vocabulary([*learned.chosen_tokens, *learned.rejected_tokens])
    bags = [_bags(p.chosen_tokens, words) - _bags(p.rejected_tokens, words) for p in (learned, judged)]
    return [
        _of_pairs(name, features, judged.question, data)
        for name, features in (("length", [x[:, None].astype(float) for x in length]), ("bag_of_tokens", bags))
    ]


def _of_pairs(name: str, features: list[Array], question: Array, data: str) -> Shortcut:
    x, test = features
    both, which = np.concatenate([x, -x]), np.concatenate([np.ones(len(x)), np.zeros(len(x))]).astype(int)
    score = _fit(both, which, test, classes=2)[:, 1] - 0.5
    score[np.abs(test).sum(1) == 0] = 0.0  # no difference, no preference
    right = pair_accuracy(score, np.zeros_like(score))
    return Shortcut(name, "accuracy", lambda items: float(right[items].mean()), question, data)


def of_outcome(train: Sequence[Example], held_out: Sequence[Example], *, data: str) -> list[Shortcut]:
    """AUC of the length (either way round), and of token counts."""
    learned, judged = Solutions.of(_some(train)), Solutions.of(held_out)
    words = _vocabulary(learned.tokens)
    features = {
        "length": [s.length[:, None].astype(float) for s in (learned, judged)],
        "bag_of_tokens": [_bags(s.tokens, words) for s in (learned, judged)],
    }

    def statistic(score: Array) -> Callable[[Array], float]:
        return lambda items: auc(score[items], judged.right[items])

    scores = {name: _fit(x, learned.right.astype(int), test, classes=2)[:, 1] for name, (x, test) in features.items()}
    return [Shortcut(name, "auc", statistic(score), judged.question, data) for name, score in scores.items()]


def of_process(train: Sequence[Example], held_out: Sequence[Example], *, data: str) -> list[Shortcut]:
    """Macro-F1 of always saying the most common class, of the step's length and place, and of its token counts."""
    learned, judged = Steps.of(_some(train)), Steps.of(held_out)
    words = _vocabulary(learned.tokens)
    most_common = np.bincount(learned.label + 1, minlength=len(CLASSES)).argmax() - 1
    features = {
        "length": [np.stack([s.length, s.place], 1).astype(float) for s in (learned, judged)],
        "bag_of_tokens": [_bags(s.tokens, words) for s in (learned, judged)],
    }
    predicted = {"majority": np.full(len(judged.label), most_common)}
    for name, (x, test) in features.items():
        predicted[name] = _fit(x, learned.label + 1, test, classes=len(CLASSES)).argmax(1) - 1

    def statistic(guess: Array) -> Callable[[Array], float]:
        return lambda items: macro_f1(guess[items], judged.label[items], CLASSES)

    return [Shortcut(name, "macro_f1", statistic(guess), judged.question, data) for name, guess in predicted.items()]


def warnings(shortcuts: Sequence[Shortcut], *, chance: float) -> list[str]:
    """A warning for each shortcut that comes more than half the way from chance to perfect."""
    return [
        f"a shortcut explains most of the label: {r['metric']} {r['value']:.2f} on held-out data, where chance is "
        f"{chance:.2f}. The reward model may learn nothing else: balance the data (answers of one policy to the same "
        "question, judged by what they say)"
        for r in (shortcut.record for shortcut in shortcuts)
        if r["value"] > chance + HALF_WAY * (1 - chance)
    ]


def _some(examples: Sequence[Example]) -> Sequence[Example]:
    """Enough to fit a shortcut to."""
    return examples if len(examples) <= MOST_ITEMS else Random(0).sample(list(examples), MOST_ITEMS)


def _vocabulary(texts: Sequence[Sequence[int]]) -> dict[int, int]:
    """The most frequent tokens, each with its column."""
    counts: dict[int, int] = {}
    for tokens in texts:
        for token in tokens:
            counts[token] = counts.get(token, 0) + 1
    frequent = sorted(counts, key=lambda token: (-counts[token], token))[:MOST_TOKENS]
    return {token: i for i, token in enumerate(frequent)}


def _bags(texts: Sequence[Sequence[int]], words: dict[int, int]) -> Array:
    """log(1 + count) of each token of the vocabulary."""
    bags = np.zeros((len(texts), len(words)))
    for row, tokens in enumerate(texts):
        for token in tokens:
            if token in words:
                bags[row, words[token]] += 1
    return np.log1p(bags)


def _fit(x: Array, label: Array, test: Array, *, classes: int) -> Array:
    """Multinomial logistic regression by L-BFGS; the probabilities of the classes for the rows of `test`."""
    centre, scale = x.mean(0), x.std(0) + 1e-6
    train, judged = (torch.from_numpy((part - centre) / scale).float() for part in (x, test))
    target = torch.from_numpy(label).long()
    weight = torch.zeros(x.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(train @ weight + bias, target) + L2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return (judged @ weight + bias).softmax(-1).detach().double().numpy()
