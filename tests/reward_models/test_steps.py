"""Steps of a solution and their computed labels."""

import math

import pytest
import torch

from reward_models.steps import first_error, label_arithmetic
from rlhf.models.reward_model import aggregate_log, log_not_wrong
from rlhf.text.steps import CLASS_NAMES, CLASSES, split_steps


def test_split():
    text = "<think>2*4=8\n7+8-3\n</think><answer>12</answer>"
    assert split_steps(text) == ["2*4=8", "7+8-3", "<answer>12</answer>"]
    assert split_steps("a\n\n b \nc") == ["a", "b", "c"]
    assert split_steps("<think>2*4=8") == ["<think>2*4=8"]


@pytest.mark.parametrize(
    ("steps", "labels"),
    [
        (["2*4=8", "7+8-3", "7+8=15", "15-3", "15-3=12", "<answer>12</answer>"], [1, 0, 1, 0, 1, 1]),
        # a false result; what follows from it is judged by itself
        (["2*4=9", "7+9-3", "7+9=16", "16-3", "16-3=13", "<answer>13</answer>"], [-1, 0, 1, 0, 1, 1]),
        # a line that does not follow, then a true equation of it
        (["2*4=8", "7+8-2", "7+8=15", "15-2", "15-2=13", "<answer>13</answer>"], [1, -1, 1, 0, 1, 1]),
        # the last step is true and the answer is another number
        (["2*4=8", "7+8-3", "7+8=15", "15-3", "15-3=12", "<answer>13</answer>"], [1, 0, 1, 0, 1, -1]),
        # true, but not what comes next: the product is first
        (["4-3=1"], [-1]),
        (["7+2*4-3"], [0]),
        (["2*4=8", "2*4=8"], [1, -1]),
        # a result alone is nothing left to do
        (["2*4=8", "7+8=15", "15-3=12", "12", "12-0=12", "<answer>12</answer>"], [1, 1, 1, -1, -1, 1]),
        (["2*4=v", "=", "<answer></answer>", "12"], [-1, -1, -1, -1]),
    ],
)
def test_labels(steps, labels):
    assert label_arithmetic("7+2*4-3", steps) == labels


def test_a_right_solution_has_no_wrong_step():
    from rlhf.tasks.procedural import ProceduralTask
    from rlhf.tasks.step_arithmetic import solve

    for problem in ProceduralTask("step_arithmetic").train_problems(seed=0, first=0, count=50):
        expression = problem.entry["metadata"]["expression"]
        labels = label_arithmetic(expression, [*(solve(expression) or []), f"<answer>{problem.answer}</answer>"])
        assert first_error(labels) is None
        assert set(labels) == {0, 1}


def test_classes_have_names():
    assert dict(zip(CLASSES, CLASS_NAMES, strict=True)) == {-1: "wrong", 0: "neutral", 1: "right"}


def test_first_error():
    assert (first_error([1, 0, -1, -1]), first_error([1, None, 0]), first_error([-1])) == (2, None, 0)


def test_step_scores_become_one():
    """0.8, 0.5, 0.9: the least is 0.5, the product 0.36, the last 0.9."""
    logs = [math.log(p) for p in (0.8, 0.5, 0.9)]
    found = [math.exp(aggregate_log(logs, how)) for how in ("min", "product", "last")]
    assert found == pytest.approx([0.5, 0.36, 0.9])


def test_products_of_many_steps_stay_apart():
    """0.1^400 and 0.1^401 are both 0 as numbers; their logarithms differ by log 10. The order of steps makes none."""
    many, more = ([math.log(0.1)] * n for n in (400, 401))
    assert aggregate_log(many, "product") - aggregate_log(more, "product") == pytest.approx(math.log(10))
    steps = [math.log(p) for p in (0.1, 0.7, 0.3, 0.9, 0.2)]
    assert aggregate_log(steps, "product") == aggregate_log(steps[::-1], "product")


def test_the_log_probability_of_not_being_wrong():
    """P = (1/4, 1/4, 1/2): not wrong 3/4. And e^-100 / (1 + e^-100 + e^-100) twice, where 1 - P(wrong) is 0."""
    logits = torch.tensor([[0.0, 0.0, math.log(2)], [100.0, 0.0, 0.0]])
    assert log_not_wrong(logits) == pytest.approx([math.log(0.75), math.log(2) - 100])
