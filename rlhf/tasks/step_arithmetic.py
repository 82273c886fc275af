"""Arithmetic solved one step a line, as a task of reasoning-gym (name: `step_arithmetic`).

`7+2*4-3` asks for 12. Every step of a solution is an equation whose truth can be computed, so an outcome and each step
can be judged without a model.
"""

from dataclasses import dataclass
from random import Random
from typing import Any

from rlhf.tasks.reasoning_gym import ProceduralDataset, register_dataset

NAME = "step_arithmetic"


@dataclass
class StepArithmeticConfig:
    """Terms are 1-9; at most one product, of two factors 2-5; no intermediate result is negative."""

    min_terms: int = 3
    max_terms: int = 4
    seed: int | None = None
    size: int = 500

    def validate(self) -> None:
        assert 2 <= self.min_terms <= self.max_terms, "2 <= min_terms <= max_terms"


class StepArithmeticDataset(ProceduralDataset):
    def __init__(self, config: StepArithmeticConfig):
        super().__init__(config=config, seed=config.seed, size=config.size)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        rng = Random(self.seed + idx)
        while True:
            expression = _draw(rng, rng.randint(self.config.min_terms, self.config.max_terms))
            steps = solve(expression)
            if steps is not None:
                break
        return {
            "question": f"Calculate step by step: {expression}",
            "answer": steps[-1].split("=")[-1],
            "metadata": {"source_dataset": NAME, "source_index": idx, "expression": expression},
        }

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        return float(answer is not None and answer.strip() == entry["answer"])


def _draw(rng: Random, terms: int) -> str:
    numbers = [rng.randint(1, 9) for _ in range(terms)]
    operators = [rng.choice("+-") for _ in range(terms - 1)]
    if rng.random() < 0.6:
        at = rng.randrange(terms - 1)
        operators[at] = "*"
        numbers[at], numbers[at + 1] = rng.randint(2, 5), rng.randint(2, 5)
    return str(numbers[0]) + "".join(f"{op}{n}" for op, n in zip(operators, numbers[1:], strict=True))


def solve(expression: str, *, wrong_step: int = -1, error: int = 0) -> list[str] | None:
    """The lines of a solution: each equation, then what is left to do. None if a result is negative.

    `error` is added to the result of equation number `wrong_step` (from 0), and carried through to the end.

    >>> solve("7+2*4-3")
    ['2*4=8', '7+8-3', '7+8=15', '15-3', '15-3=12']
    """
    lines = []
    tokens = split(expression)
    step = 0
    while len(tokens) > 1:
        at = tokens.index("*") if "*" in tokens else 1
        left, operator, right = tokens[at - 1 : at + 2]
        result = evaluate(int(left), operator, int(right)) + (error if step == wrong_step else 0)
        if result < 0:
            return None
        tokens[at - 1 : at + 2] = [str(result)]
        lines.append(f"{left}{operator}{right}={result}")
        if len(tokens) > 1:
            lines.append("".join(tokens))
        step += 1
    return lines


def split(expression: str) -> list[str]:
    """'12+3*4' -> ['12', '+', '3', '*', '4']"""
    for operator in "+-*":
        expression = expression.replace(operator, f" {operator} ")
    return expression.split()


def evaluate(left: int, operator: str, right: int) -> int:
    return {"+": left + right, "-": left - right, "*": left * right}[operator]


register_dataset(NAME, StepArithmeticDataset, StepArithmeticConfig)
