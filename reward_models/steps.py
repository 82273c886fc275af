"""Solutions as steps, steps with computed labels, and how step scores make the score of a solution."""

import math
import re
from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from rlhf.tasks.step_arithmetic import evaluate, split

WRONG, NEUTRAL, RIGHT = -1, 0, 1
CLASSES = (WRONG, NEUTRAL, RIGHT)
CLASS_NAMES = ("wrong", "neutral", "right")
THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*(.*)", re.DOTALL)
ANSWER = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.DOTALL)
EQUATION = re.compile(r"(\d+)([+*-])(\d+)=(\d+)")
EXPRESSION = re.compile(r"\d+([+*-]\d+)*")

type Aggregation = Literal["min", "product", "last"]


def split_steps(completion: str) -> list[str]:
    """The lines of a solution. Of <think>..</think><answer>..</answer>: the lines of the thought, then the answer."""
    thought = THOUGHT.fullmatch(completion)
    parts = [*thought[1].split("\n"), thought[2]] if thought else completion.split("\n")
    return [part.strip() for part in parts if part.strip()]


def label_arithmetic(expression: str, steps: Sequence[str]) -> list[int]:
    """Labels of the steps of a `step_arithmetic` solution, each judged by what stands before it.

    An equation is right (1) if it is the next thing to calculate and its result is true, else wrong (-1). A line that
    writes down what is left to do is neutral (0), since it makes no progress, unless it does not follow (-1). The
    answer is right if it is the number that was reached. What follows from an earlier mistake is judged by itself, so
    the label says where a mistake is made, not that there was one.
    """
    labels, standing = [], split(expression)
    for step in steps:
        answer, equation = ANSWER.fullmatch(step), EQUATION.fullmatch(step)
        if answer:
            labels.append(RIGHT if standing == [answer[1]] else WRONG)
        elif equation:
            left, operator, right, result = equation.groups()
            at = standing.index("*") if "*" in standing else 1
            follows = standing[at - 1 : at + 2] == [left, operator, right]
            true = evaluate(int(left), operator, int(right)) == int(result)
            labels.append(RIGHT if follows and true else WRONG)
            standing = [*standing[: at - 1], result, *standing[at + 2 :]] if follows else [result]
        else:
            tokens = split(step)
            labels.append(NEUTRAL if tokens == standing and len(tokens) != 1 else WRONG)
            if EXPRESSION.fullmatch(step):
                standing = tokens
    return labels


def first_error(labels: Sequence[int | None]) -> int | None:
    """The number of the first wrong step, from 0; None if there is none."""
    return next((i for i, label in enumerate(labels) if label == WRONG), None)


def log_not_wrong(logits: Float[Tensor, "s 3"]) -> list[float]:
    """log P(not wrong) of each step, in fp64: from the logits, since 1 - P(wrong) has no digits left near 0."""
    return logits.double().log_softmax(-1)[:, [NEUTRAL + 1, RIGHT + 1]].logsumexp(1).tolist()


def aggregate_log(scores: Sequence[float], how: Aggregation) -> float:
    """From the log-probabilities that each step is not wrong to one of the whole solution, in nats.

    `product` is the log-probability that no step is wrong, if they were independent (Lightman et al., 2023); `min` that
    of the weakest step; `last` that of the final one. In logarithms, since products of many steps run out of digits.
    """
    return {"min": min, "product": math.fsum, "last": lambda values: values[-1]}[how](scores)
