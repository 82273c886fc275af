"""The answer in a completion, by the form that was asked for."""

import re
from fractions import Fraction

from rlhf.tasks.numbers import last_number, write_number

TURN = re.compile(r"</think>\s*<answer>")
PLAIN_NUMBER = re.compile(
    r"-?[0-9]{1,400}(?:\.[0-9]{1,400})?"
)  # handed on as it was written: 0.50 is not 0.5 to every verifier


def extract_answer(completion: str, answer_in: str) -> tuple[str | None, bool]:
    """The answer (None if there is none) and whether the completion has the form asked for.

    In `think_tags`, an answer is taken from the last <answer> even where the rest of the form is wrong: whether a
    policy is right and whether it is tidy are two measurements.

    Takes time linear in the length: a pattern such as <answer>.*?</answer> would not, of many tags that nothing closes.
    """
    if answer_in == "last_number":
        number = last_number(completion)
        if number is None:
            return None, False
        *_, plain = ["", *PLAIN_NUMBER.findall(completion)]
        return (plain if plain and Fraction(plain) == number else write_number(number)), True
    if answer_in == "text":
        return completion.strip() or None, bool(completion.strip())
    found = _between_tags(completion)
    answer = found[-1].strip() if found else None
    if answer_in == "answer_tag":
        return answer, len(found) == 1
    return answer, len(found) == 1 and _thinks_then_answers(completion.strip())


def _between_tags(text: str) -> list[str]:
    """What stands between an <answer> and the next </answer>, each time."""
    parts = [part.partition("<answer>") for part in text.split("</answer>")[:-1]]
    return [answer for _, tag, answer in parts if tag]


def _thinks_then_answers(text: str) -> bool:
    """Whether a text is <think>...</think><answer>...</answer>, with nothing but blanks between the two."""
    turn = TURN.search(text, len("<think>"))
    ends = len(text) - len("</answer>")
    return turn is not None and turn.end() <= ends and text.startswith("<think>") and text.endswith("</answer>")
