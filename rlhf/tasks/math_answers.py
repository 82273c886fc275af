r"""Whether two answers are the same mathematics, LaTeX, \boxed{...} or plain, by Hugging Face's math-verify.

Runs in the guarded process alone (`rlhf.tasks.verifier_worker`): what it reads was written by a model, and sympy may
compute for ever. That process has a limit of its own, so math-verify's is off.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

DELIMITERS = ("$", "\\boxed", "\\(", "\\[", "\\begin")
# A \boxed{...} is the answer where there is one; else the last formula or expression.
FORMS = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own time limit is off


# What sympy imports late, it must have imported before the process gives up its rights.
WARM_UP = (
    *(("2x + x^2", "$x(x+2)$"), ("0.5", "\\frac{1}{2}"), ("\\sqrt{8}", "2\\sqrt{2}"), ("\\sin^2 x", "1 - \\cos^2 x")),
    *(("\\{1, 2\\}", "\\{2, 1\\}"), ("(1, 2)", "(1, 2]"), ("x > 1", "1 < x"), ("50\\%", "0.5"), ("x = 1", "1")),
    *(("\\begin{pmatrix} 1 & 2 \\end{pmatrix}", "\\begin{pmatrix} 1 & 3 \\end{pmatrix}"), ("\\ln 2", "\\log 3")),
    *(("1 + i", "\\pi e"), ("\\int_0^1 x dx", "\\frac12"), ("5!", "120"), ("\\text{yes}", "no"), ("|x|", "x")),
)


def score_answer(answer: str, entry: Mapping[str, Any]) -> float:
    """1 for an answer that is worth the same as the reference, else 0. An answer without delimiters is a text that says
    a formula somewhere, or is a formula as a whole.

    Raises:
        Exception: of many kinds, where math-verify cannot tell.
    """
    reference, failed = list(_reference(entry["answer"])), None
    for text in dict.fromkeys([answer, _delimited(answer)]):
        try:
            if verify(reference, _read(text), timeout_seconds=0, raise_on_error=True):
                return 1.0
        except Exception as error:
            failed = error
    if failed is not None:
        raise failed
    return 0.0


@lru_cache(maxsize=1024)
def _reference(text: str) -> tuple[Any, ...]:
    """A reference without delimiters, as data sets have them, is a formula as a whole."""
    return tuple(_read(_delimited(text)))


def _delimited(text: str) -> str:
    return text if any(mark in text for mark in DELIMITERS) else f"\\boxed{{{text}}}"


def _read(text: str) -> list[Any]:
    return parse(text, FORMS, extraction_mode="first_match", parsing_timeout=0, raise_on_error=True)


for _answer, _right in WARM_UP:
    with suppress(Exception):
        score_answer(_answer, {"answer": _right})
