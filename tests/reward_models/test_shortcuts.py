"""Shortcut baselines: what they find, what they are fitted on, and what they may read."""

import math

import numpy as np
import pytest

from reward_models import shortcuts
from reward_models.examples import Example
from reward_models.held_out_metrics import Result
from reward_models.shortcuts import (
    L2,
    MOST_TOKENS,
    Shortcut,
    _bags,
    _fit,
    _some,
    _vocabulary,
    add_shortcuts,
    of_outcome,
    of_preference,
    of_process,
    warnings,
)
from rlhf import statistics
from rlhf.groups import Group
from rlhf.statistics import bootstrap


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 200)


def pairs(count: int, chosen, rejected) -> list[Example]:
    return [Example(f"q{i}", Group([1], [chosen(i), rejected(i)]), ["", ""]) for i in range(count)]


def of(shortcuts: list[Shortcut]) -> dict[str, float]:
    return {shortcut.record["metric"]: shortcut.record["value"] for shortcut in shortcuts}


def test_shortcuts_of_pairs_are_found():
    """Longer is better; a token that only chosen answers have; neither."""
    longer = pairs(60, lambda i: [5] * (i % 7 + 3), lambda i: [5] * (i % 7 + 1))
    tried = of_preference(longer[:40], longer[40:], data="d")
    assert of(tried)["accuracy_length"] == 1.0
    assert len(warnings(tried[:1], chance=0.5)) == 1
    marked = pairs(60, lambda i: [5, 9, 6 + i % 2], lambda i: [5, 8, 7 - i % 2])
    found = of(of_preference(marked[:40], marked[40:], data="d"))
    assert (found["accuracy_length"], found["accuracy_bag_of_tokens"]) == (0.5, 1.0)
    order = pairs(60, lambda i: [5, 6], lambda i: [6, 5])  # only the order tells
    assert set(of(of_preference(order[:40], order[40:], data="d")).values()) == {0.5}


def test_what_surpasses_a_shortcut_is_compared_question_by_question():
    """A model that is right wherever the shortcut is, and once more: the gain is one in a hundred, and its
    interval that of one question; the shortcut's own is far wider."""
    by_shortcut = np.array([True, False] * 50)
    by_model = by_shortcut.copy()
    by_model[1] = True
    shortcut = Shortcut("length", "accuracy", lambda items: float(by_shortcut[items].mean()), np.arange(100), "d")
    gain = shortcut.surpassed_by(Result([], lambda items: float(by_model[items].mean())))
    assert gain["metric"] == "accuracy_above_length"
    assert gain["value"] == pytest.approx(0.01)
    assert (gain["low"], gain["high"]) == (0.0, pytest.approx(0.03))
    assert shortcut.record["high"] - shortcut.record["low"] > 0.15


def test_shortcuts_of_solutions_and_steps_are_found():
    def example(i: int) -> Example:
        right = i % 2 == 0
        tokens = [5, 6, 7] if right else [5, 6, 7, 8]
        return Example(
            f"q{i}",
            Group([1], [tokens], [[False] * (len(tokens) - 1) + [True]]),
            [""],
            [right],
            [[1 if right else -1]],
            step_ends=[[len(tokens) - 1]],
            whole=[True],
        )

    examples = [example(i) for i in range(60)]
    assert of(of_outcome(examples[:40], examples[40:], data="d")) == {"auc_length": 1.0, "auc_bag_of_tokens": 1.0}
    found = of(of_process(examples[:40], examples[40:], data="d"))
    assert found["macro_f1_majority"] == pytest.approx((2 / 3) / 2)  # one class of two, F1 2/3; neutral never occurs
    assert found["macro_f1_length"] == found["macro_f1_bag_of_tokens"] == 1.0


def solutions(tokens, *, count: int = 40, first: int = 0) -> list[Example]:
    """One solution a question, right and wrong in turn, with `tokens(right, i)`."""
    made = []
    for i in range(first, first + count):
        own = tokens(i % 2 == 0, i)
        made.append(Example(f"q{i}", Group([1], [own], [[True] * len(own)]), [""], [i % 2 == 0]))
    return made


def steps(tokens, *, count: int = 40, first: int = 0) -> list[Example]:
    """A trace of one labelled step a question."""
    made = []
    for i in range(first, first + count):
        own = [*tokens(i % 2 == 0, i), 99]
        counts = [[False] * (len(own) - 1) + [True]]
        labels = [[1 if i % 2 == 0 else -1]]
        made.append(
            Example(f"q{i}", Group([1], [own], counts), [""], labels=labels, step_ends=[[len(own) - 1]], whole=[True])
        )
    return made


def both(tokens, *, first: int = 0) -> list[Example]:
    """The same as pairs, right chosen and wrong rejected."""
    return [
        Example(f"q{i}", Group([1], [tokens(True, i), tokens(False, i)]), ["", ""]) for i in range(first, first + 40)
    ]


def plain(right: bool, i: int) -> list[int]:
    return [5] * (3 + i // 2 % 3)


def longer(right: bool, i: int) -> list[int]:
    return [5] * (3 + i // 2 % 3 + 4 * right)


def marked(right: bool, i: int) -> list[int]:
    return [5] * (3 + i // 2 % 3) + [8 if right else 9]


@pytest.mark.parametrize(("make", "of_kind", "metric", "chance"), [
    (both, of_preference, "accuracy", 0.5), (solutions, of_outcome, "auc", 0.5), (steps, of_process, "macro_f1", 1 / 3),
])  # fmt: skip
def test_shortcuts_are_fitted_on_training_data_and_judged_on_held_out(make, of_kind, metric, chance):
    """What tells right from wrong in training alone, or in the held-out part alone, helps nobody; turned round between
    them, it is worse than chance."""

    def turned(right: bool, i: int) -> list[int]:
        return marked(not right, i)

    def scores(train, held_out) -> float:
        return of(of_kind(make(train), make(held_out, first=40), data="d"))[f"{metric}_bag_of_tokens"]

    assert scores(marked, marked) == 1.0
    assert scores(marked, plain) <= 0.5
    assert scores(plain, marked) <= 0.5
    assert scores(marked, turned) == 0.0
    found = of(of_kind(make(longer), make(plain, first=40), data="d"))
    assert found[f"{metric}_length"] <= 0.5
    found = of(of_kind(make(longer), make(longer, first=40), data="d"))
    assert found[f"{metric}_length"] == 1.0


def test_the_majority_is_that_of_the_training_data():
    """All wrong there, all right here: F1 0 of the one class that there is."""
    wrong, right = (
        [
            Example(f"{v}{i}", Group([1], [[5, 99]], [[False, True]]), [""], labels=[[v]], step_ends=[[1]])
            for i in range(9)
        ]
        for v in (-1, 1)
    )
    assert of(of_process(wrong, right, data="d"))["macro_f1_majority"] == 0.0
    assert of(of_process(wrong, wrong, data="d"))["macro_f1_majority"] == 1.0
    neutral = [Example(e.question, e.group, [""], labels=[[0]], step_ends=[[1]]) for e in wrong]
    assert of(of_process([*neutral, *wrong[:2]], neutral, data="d"))["macro_f1_majority"] == 1.0


def test_the_place_of_a_step_is_read():
    """Of equal tokens, the second step is the wrong one."""
    made = [
        Example(f"q{i}", Group([1], [[5, 99, 5, 99]], [[False, True] * 2]), [""], labels=[[1, -1]], step_ends=[[1, 3]])
        for i in range(60)
    ]
    found = of(of_process(made[:40], made[40:], data="d"))
    assert found["macro_f1_length"] == 1.0
    assert found["macro_f1_bag_of_tokens"] < 0.5


def test_a_step_is_judged_without_what_stands_before_it():
    """An unlabelled step whose token gives the label away: the baseline does not see it."""

    def made(i: int) -> Example:
        right = i % 2 == 0
        return Example(
            f"q{i}", Group([1], [[8 if right else 9, 99, 5, 99]], [[False] * 3 + [True]]), [""],
            labels=[[1 if right else -1]], step_ends=[[1, 3]],
        )  # fmt: skip

    examples = [made(i) for i in range(60)]
    assert of(of_process(examples[:40], examples[40:], data="d"))["macro_f1_bag_of_tokens"] < 0.5


def test_intervals_of_shortcuts_are_over_questions():
    """Twenty copies of each question's pair say no more than one."""
    train = both(longer)
    lengths = [(2, 1), (1, 2), (2, 1), (2, 1), (1, 2)]
    once = [Example(f"h{i}", Group([1], [[5] * n for n in own]), ["", ""]) for i, own in enumerate(lengths)]
    (one, *_), (many, *_) = of_preference(train, once, data="d"), of_preference(train, once * 20, data="d")
    for part in ("value", "low", "high"):
        assert many.record[part] == pytest.approx(one.record[part])
    right = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    expected = bootstrap(lambda i: float(right[i].mean()), np.arange(5))
    assert (one.record["low"], one.record["high"]) == (expected.low, expected.high)
    perfect = Result([], lambda i: 1.0)
    assert one.surpassed_by(perfect)["low"] == pytest.approx(1 - expected.high)
    assert many.surpassed_by(perfect)["low"] == pytest.approx(1 - expected.high)


def test_a_result_says_how_much_better_it_is():
    """A model right on all but the first of four, a shortcut on the first two: 3/4 and 1/2."""
    model, shortcut = np.array([0.0, 1.0, 1.0, 1.0]), np.array([1.0, 1.0, 0.0, 0.0])
    result = Result([{"metric": "accuracy"}], lambda i: float(model[i].mean()))
    short = Shortcut("length", "accuracy", lambda i: float(shortcut[i].mean()), np.arange(4), "held-out")
    none = Shortcut("x", "auc", lambda i: math.nan, np.arange(4), "held-out")
    add_shortcuts(result, [short, none])
    (_, above), (own,) = result.records, result.baselines
    assert (above["metric"], above["value"], above["data"], above["n"]) == (
        "accuracy_above_length",
        0.25,
        "held-out",
        4,
    )
    assert (own["metric"], own["value"]) == ("accuracy_length", 0.5)
    assert above["low"] < 0.25 < above["high"]


@pytest.mark.parametrize(("chance", "value", "warned"), [
    (0.5, 0.76, True), (0.5, 0.75, False), (0.5, 0.3, False), (1 / 3, 0.7, True), (1 / 3, 0.66, False),
])  # fmt: skip
def test_a_warning_is_beyond_half_way_from_chance(chance: float, value: float, warned: bool):
    shortcut = Shortcut("length", "auc", lambda i: value, np.arange(4), "d")
    said = warnings([shortcut], chance=chance)
    assert len(said) == warned
    if warned:
        assert f"auc_length {value:.2f}" in said[0]
        assert f"chance is {chance:.2f}" in said[0]


def test_the_vocabulary_is_the_most_frequent_tokens():
    texts = [[7, 7, 3], [7, 3, 5], *[[1000 + i] for i in range(2 * MOST_TOKENS)]]
    words = _vocabulary(texts)
    assert len(words) == MOST_TOKENS == 1000
    assert [token for token, column in words.items() if column < 3] == [7, 3, 5]
    assert list(words.values()) == list(range(MOST_TOKENS))


def test_bags_count_tokens():
    """log(1 + count); a token outside the vocabulary counts nowhere."""
    found = _bags([[4, 6, 4, 9], []], {4: 0, 6: 1, 8: 2})
    assert found == pytest.approx(np.log([[3, 2, 1], [1, 1, 1]]))


def test_a_fit_is_the_optimum_of_its_loss():
    """At the optimum of mean cross-entropy + L2 |w|² the gradient is 0: mean of (p - y) x = -2 L2 w, of (p - y) = 0."""
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, [1.0, 5.0], (200, 2))
    label = (x[:, 0] + 0.1 * x[:, 1] + rng.normal(0, 1, 200) > 3.3).astype(int)
    p = _fit(x, label, x, classes=2)
    assert p.shape == (200, 2)
    assert p.sum(1) == pytest.approx(np.ones(200))
    z = (x - x.mean(0)) / x.std(0)
    miss = p[:, 1] - label
    assert miss.mean() == pytest.approx(0, abs=1e-3)
    slope = (miss[:, None] * z).mean(0)
    # w of class 1 is minus that of class 0; their difference is the slope of the log-odds
    odds = np.log(p[:, 1] / p[:, 0])
    weight = np.linalg.lstsq(np.column_stack([z, np.ones(200)]), odds, rcond=None)[0][:2] / 2
    assert slope == pytest.approx(-2 * L2 * weight, abs=2e-4)
    assert L2 == 1e-3
    assert ((odds > 0) == label).mean() > 0.7


def test_a_fit_does_not_depend_on_units():
    rng = np.random.default_rng(1)
    x, label = rng.normal(0, 1, (60, 2)), rng.integers(0, 2, 60)
    assert _fit(x * 100 + 7, label, x * 100 + 7, classes=2) == pytest.approx(_fit(x, label, x, classes=2), abs=1e-3)


def test_a_large_training_set_is_sampled(monkeypatch):
    assert shortcuts.MOST_ITEMS == 20_000
    monkeypatch.setattr(shortcuts, "MOST_ITEMS", 20)
    few, many = both(plain)[:20], both(plain)[:21]
    assert _some(few) is few
    some = [example.question for example in _some(many)]
    assert len(some) == len(set(some)) == 20
    assert some == [example.question for example in _some(many)]
