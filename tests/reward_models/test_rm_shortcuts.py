"""Shortcut baselines: what they find, what they are fitted on, and what they may read."""

import numpy as np
import pytest

from reward_models.data import Example
from reward_models.evaluation import Result
from reward_models.shortcuts import Shortcut, of_outcome, of_preference, of_process, warnings
from rlhf.groups import Group


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
