"""Verifiers of our own, for tasks whose verifier in reasoning-gym calls wrong answers right, and what needs no guard.

Each takes (answer, entry) and gives a score in [0, 1], 1 only for a right answer. They evaluate nothing, so they run in
this process.
"""

import ast
import inspect
import json
import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from types import CodeType
from typing import Any

from rlhf.tasks.expressions import NotAnExpression, tree_of
from rlhf.tasks.numbers import read_number

Entry = Mapping[str, Any]
Verifier = Callable[[str, Entry], float]
MAX_SIZE = 10**60  # of a number on the way to an answer


def arithmetic(text: str) -> tuple[Fraction, list[int]]:
    """The value of an expression of whole numbers, + - * / and brackets, and the numbers in it, exactly.

    >>> arithmetic("4*(53 + 34) - 46/2")
    (Fraction(325, 1), [4, 53, 34, 46, 2])

    Raises:
        NotAnExpression: it is anything else.
    """
    numbers: list[int] = []

    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(value=int() as number) if not isinstance(number, bool):
                numbers.append(number)
                result = Fraction(number)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                result = -value(operand)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                result = value(left) + value(right)
            case ast.BinOp(left=left, op=ast.Sub(), right=right):
                result = value(left) - value(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                result = value(left) * value(right)
            case ast.BinOp(left=left, op=ast.Div(), right=right):
                above, below = value(left), value(right)
                if below == 0:
                    raise NotAnExpression("division by zero")
                result = above / below
            case _:
                raise NotAnExpression(f"{type(node).__name__} is not arithmetic")
        if max(abs(result.numerator), result.denominator) > MAX_SIZE:
            raise NotAnExpression("too large a number")
        return result

    try:
        return value(tree_of(text)), numbers
    except RecursionError as error:
        raise NotAnExpression("nested too deeply") from error


def reaches(answer: str, entry: Entry, *, target: int) -> float:
    """Whether an expression of the entry's numbers, each used once, is worth `target`.

    Of reasoning-gym's verifiers, countdown's evaluates the answer, and puzzle24's takes any four numbers.
    """
    try:
        value, numbers = arithmetic(answer)
    except NotAnExpression:
        return 0.01
    if sorted(numbers) != sorted(entry["metadata"]["numbers"]):
        return 0.05 if value == target else 0.01
    return 1.0 if value == target else 0.05


def same_text(answer: str, entry: Entry) -> float:
    """game_of_life_halting asks bool("False") == bool("True"); figlet_font's partial credit reaches 1."""
    return float(answer.strip().lower() == str(entry["answer"]).strip().lower())


def same_probability(answer: str, entry: Entry) -> float:
    """Within 1e-4, and within 1 % where the probability is small; reasoning-gym's coin_flip takes any prefix, as 0."""
    said, right = read_number(answer), Fraction(str(entry["answer"]))
    return float(said is not None and abs(said - right) <= min(Fraction(1, 10_000), right / 100))


def same_number(answer: str, entry: Entry) -> float:
    """The number that is said; reasoning-gym's gsm_symbolic takes the first one, so that 9 - 2 is 9."""
    said = read_number(answer)
    return float(said is not None and said == read_number(str(entry["answer"])))


def same_numbers(answer: str, entry: Entry) -> float:
    """A list of the same numbers in the same order; reasoning-gym's number_sorting takes each within 1, and nan."""
    try:
        said, right = (json.loads(text.replace("'", '"')) for text in (answer, str(entry["answer"])))
        if not isinstance(said, list) or len(said) != len(right) or any(isinstance(number, bool) for number in said):
            return 0.0
        pairs = [(float(a), float(b)) for a, b in zip(said, right, strict=True)]
    except (ValueError, TypeError, OverflowError, RecursionError):
        return 0.0
    return float(all(abs(a - b) <= 1e-9 * max(1.0, abs(b)) for a, b in pairs))


def same_grid(answer: str, entry: Entry) -> float:
    """The share of cells that agree; 1 only for the same grid: reasoning-gym's game_of_life lets more rows pass."""
    try:
        said, right = json.loads(answer), json.loads(str(entry["answer"]))
    except (ValueError, RecursionError):
        return 0.0
    if said == right and "true" not in answer and "false" not in answer:
        return 1.0
    try:
        cells = [said[i][j] == cell for i, row in enumerate(right) for j, cell in enumerate(row)]
    except (IndexError, TypeError, KeyError):
        return 0.0
    return 0.99 * sum(cells) / max(1, len(cells))


def same_complex(answer: str, entry: Entry) -> float:
    """exp(-distance), and 0 for what is no finite number; reasoning-gym's complex_arithmetic takes nan for right."""
    if len(answer) > 100:
        return 0.0
    text = answer.lower().strip().removeprefix("(").removesuffix(")").replace("i", "j")
    try:
        said = complex(re.sub(r"\s*([-+])\s*", r"\1", text))
        distance = abs(said - complex(*entry["metadata"]["result"]))
    except (ValueError, OverflowError):
        return 0.0
    return math.exp(-distance) if math.isfinite(distance) else 0.0


OWN: dict[str, Verifier] = {
    "coin_flip": same_probability,
    "complex_arithmetic": same_complex,
    "countdown": lambda answer, entry: reaches(answer, entry, target=entry["metadata"]["target"]),
    "figlet_font": same_text,
    "game_of_life": same_grid,
    "game_of_life_halting": same_text,
    "gsm_symbolic": same_number,
    "number_sorting": same_numbers,
    "puzzle24": lambda answer, entry: reaches(answer, entry, target=24),
}

# ------------------------------------------------------------------------------------------------------ what is plain

# A verifier that calls nothing but these compares texts in time linear in their length; it needs no guard.
_PLAIN = {
    *("isinstance", "str", "len", "range", "zip", "sum", "min", "max", "enumerate", "float"),
    *("lower", "upper", "casefold", "strip", "rstrip", "lstrip", "replace", "split", "join", "title"),
}


def is_plain(verifier: Callable[..., Any]) -> bool:
    """Whether a verifier only compares texts: reasoning-gym's common one does, and so do many others.

    >>> is_plain(lambda answer, entry: float(answer.strip() == entry["answer"])), is_plain(eval)
    (True, False)
    """
    code = getattr(inspect.unwrap(verifier), "__code__", None)
    return code is not None and _names(code) <= _PLAIN


def _names(code: CodeType) -> set[str]:
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names) | {name for it in inner for name in _names(it)}
