"""Labels of the steps of a solution: computed for arithmetic, and the first that is wrong."""

import re
from collections.abc import Sequence

from rlhf.tasks.step_arithmetic import evaluate, split
from rlhf.text.steps import NEUTRAL, RIGHT, WRONG

ANSWER = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.DOTALL)
EQUATION = re.compile(r"(\d+)([+*-])(\d+)=(\d+)")
EXPRESSION = re.compile(r"\d+([+*-]\d+)*")


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
