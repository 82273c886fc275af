"""What a right answer to some tasks must be besides, where reasoning-gym's verifier passes over what it cannot read.

Such a verifier looks for what it knows: 'Bad luck' presses the buttons B, A, C, '7, 8 or 9' has the one solution 7, and
the words of a sorted list are all in their places however many follow. What it calls right must therefore also be, as a
whole, what the question asks for.
"""

import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from itertools import chain
from typing import Any

from rlhf.tasks.numbers import read_number

Entry = Mapping[str, Any]
Condition = Callable[[str, Entry], bool]
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_FRACTION = r"\\d?frac\s*\{\s*\d+\s*\}\s*\{\s*\d+\s*\}|\d+\s*/\s*\d+"
_ROLE = r"\w+ is (?:an? )?\w+"
_DURATION = re.compile(r"(?:(\d+)(?: days?)?)?(?:(?:^|, ?)(\d+):([0-5]?\d)(?::([0-5]?\d(?:\.\d+)?))?)?", re.ASCII)
LONGEST_DURATION = 100  # characters


def holds(name: str, answer: str, entry: Entry) -> bool:
    """Whether an answer that a task's verifier calls right is so as a whole."""
    condition = CONDITIONS.get(name)
    try:
        return condition is None or condition(answer.strip(), entry)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return False


def _form(pattern: str) -> Condition:
    """Nothing but what a pattern says. The patterns take time linear in the length."""
    compiled = re.compile(pattern)
    return lambda answer, entry: compiled.fullmatch(answer) is not None


def _number(answer: str, entry: Entry) -> bool:
    """reasoning-gym leaves out commas and underscores, wherever they stand: 4,5 is 45 to it."""
    return read_number(answer) == read_number(entry["answer"])


def _decimal(answer: str, entry: Entry) -> bool:
    """Exact, or rounded to the 12 digits that are asked for; reasoning-gym lets the last decimal place be another."""
    said, right = read_number(answer), Decimal(entry["answer"])
    return said is not None and abs(said - Fraction(right)) <= Fraction(10) ** (right.adjusted() - 11)


def _candidate(answer: str, entry: Entry) -> bool:
    """As near as a candidate is written; reasoning-gym takes all within 0.01, so a candidate near the right one."""
    said, right = read_number(answer), Fraction(entry["metadata"]["solution"])
    return said is not None and abs(said - right) <= max(Fraction(1, 10**5), abs(right) / 10**14)


def _duration(answer: str, entry: Entry) -> bool:
    """As long; reasoning-gym reads .0500 as 500 ms and .57113 as 57.113 s, and '40 weeks' as 40 days."""
    seconds = _seconds(answer)
    return seconds is not None and seconds == _seconds(entry["answer"])


def _seconds(text: str) -> Fraction | None:
    """Of '3 days, 04:05:06.7', or of a part of that."""
    found = _DURATION.fullmatch(text) if text and len(text) <= LONGEST_DURATION else None
    if found is None:
        return None
    days, hours, minutes, seconds = (Fraction(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _rounded_matrix(answer: str, entry: Entry) -> bool:
    """Rows as they are, to two decimals; reasoning-gym takes a column for a row, all within 1 %, and comments."""
    said, right = (
        [[float(number) for number in line.split()] for line in text.splitlines() if line.strip()]
        for text in (answer, entry["answer"])
    )
    if [len(row) for row in said] != [len(row) for row in right]:
        return False
    return all(abs(a - b) < 0.0051 for a, b in zip(chain(*said), chain(*right), strict=True))


def _moves_boxes_alone(answer: str, entry: Entry) -> bool:
    """A target stays where it is, and an agent moves what stands in its square when the step begins; reasoning-gym lets
    a target be moved to its box, and a box be handed on within a step."""
    from reasoning_gym.games.boxnet import action_from_response  # here: it is imported once a task is open

    state = entry["metadata"]["initial_state"]
    for step in json.loads(answer):
        if any(move.startswith("move(target") for move in step.values()):
            return False
        possible = {
            agent: move for agent, move in step.items() if action_from_response(state, [{agent: move}]) != state
        }
        after = action_from_response(state, [step])
        if after != action_from_response(state, [possible]):
            return False
        state = after
    return True


def _lists(answer: str, entry: Entry) -> bool:
    """A list of lists; reasoning-gym takes a text for the list of its letters."""
    lists = json.loads(answer)
    return isinstance(lists, list) and all(isinstance(inner, list) for inner in lists)


def _coloring(answer: str, entry: Entry) -> bool:
    """Colors as they are written in the question; `true` is 1 to reasoning-gym."""
    kinds = {type(color) for color in entry["metadata"]["puzzle"]["color_options"]}
    return all(type(color) in kinds for color in _no_key_twice(answer).values())


def _same_json(answer: str, entry: Entry) -> bool:
    """Values of the same kinds; reasoning-gym takes "1" and true for 1, and the last of two values of a key."""
    return answer == entry["answer"].strip() or _are_same(_no_key_twice(answer), json.loads(entry["answer"]))


def _are_same(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_are_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_are_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _no_key_twice(text: str) -> dict[str, Any]:
    def as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=as_dict)


CONDITIONS: dict[str, Condition] = {
    "advanced_geometry": _form(rf"\(\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\)|{_NUMBER}\s*,\s*{_NUMBER}|{_NUMBER}\s*°?"),
    "boxnet": _moves_boxes_alone,
    "chain_sum": _number,
    "codeio": _same_json,
    "cryptarithm": lambda answer, entry: answer.count("=") == len(set(entry["metadata"]["letters"])),
    "decimal_arithmetic": _decimal,
    "decimal_chain_sum": _number,
    "fraction_simplification": _form(rf"\$?\s*(?:{_FRACTION})\s*\$?"),
    "graph_color": _coloring,
    "group_anagrams": _lists,
    "jugs": lambda answer, entry: isinstance(json.loads(answer), list),
    "kakurasu": _form(r"[01\s,;|\[\]()]*"),
    "knights_knaves": _form(rf"{_ROLE}(?:[,.]?\s+(?:and\s+)?{_ROLE})*\.?"),
    "letter_jumble": lambda answer, entry: len(answer.split()) == len(entry["answer"].split()),
    "number_format": _candidate,
    "palindrome_partitioning": _lists,
    "polynomial_equations": _form(rf'(?:{_NUMBER}(?:\s*,\s*{_NUMBER})*)?|""'),
    "pool_matrix": _rounded_matrix,
    "products": _number,
    "quantum_lock": _form(r"[A-Ca-c](?:[\s,;>→-]*[A-Ca-c])*"),
    "sokoban": _form(r"[LRUD\s,;>→-]*"),
    "survo": _form(r"[-\d\s|]*"),
    "time_intervals": _duration,
    "word_sorting": lambda answer, entry: len(answer.split(",")) == len(entry["metadata"]["sorted_words"]),
}
