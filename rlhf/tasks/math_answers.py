r"""Whether two answers are the same mathematics, LaTeX, \boxed{...} or plain, by Hugging Face's math-verify.

Runs in the guarded process alone (`rlhf.tasks.verifier_worker`): what it reads was written by a model, and sympy may
compute for ever. That process has a limit of its own, so math-verify's is off.
"""

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

DELIMITERS = ("$", "\\boxed", "\\(", "\\[", "\\begin")
# A \boxed{...} is the answer where there is one; else the last formula or expression.
FORMS = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own time limit is off


def score_answer(answer: str, entry: Mapping[str, Any]) -> float:
    """1 for an answer that is worth the same as the reference, else 0.

    Raises:
        ValueError: the reference cannot be read.
    """
    return float(verify(list(_reference(entry["answer"])), _read(answer), timeout_seconds=0))


@lru_cache(maxsize=1024)
def _reference(text: str) -> tuple[Any, ...]:
    """A reference without delimiters, as data sets have them (`\\frac{1}{2}`), is all formula."""
    found = _read(text if any(mark in text for mark in DELIMITERS) else f"\\boxed{{{text}}}")
    if not found:
        raise ValueError(f"the reference answer {text[:60]!r} is no mathematics")
    return tuple(found)


def _read(text: str) -> list[Any]:
    return parse(text, FORMS, extraction_mode="first_match", parsing_timeout=0)
