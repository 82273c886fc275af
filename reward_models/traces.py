"""Traces: steps that follow each other, each labelled or not; read from rows, PRM800K's among them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rlhf.data.columns import NUMBER, cell_truth, is_missing, kind_of, refuse_unused, refuse_written_out, short
from rlhf.data.rows import Row
from rlhf.errors import UserError
from rlhf.text.steps import CLASSES


@dataclass(frozen=True)
class Trace:
    """Steps that follow each other. A label is None where nobody judged the step, or it is learned elsewhere."""

    steps: list[str]
    labels: list[int | None]
    right: bool | None = None  # the whole solution, where that is known
    alternative: bool = False  # not a solution of its own: another last step behind the history of one


STEP_END = "ки"  # what Math-Shepherd ends a step with; in the labels + or - stands in its place
FIRST_STEP = re.compile(r"\s*(?=Step 1\s*:)")
RATINGS = {"+": 1, "-": -1, "good": 1, "bad": -1, "neutral": 0, "okay": 0}  # besides numbers, true and false

type Traces = tuple[str, list[Trace]]  # a question with traces


def parse_traces(row: Row) -> Traces:
    """PRM800K's own rows (either phase); Math-Shepherd's; or `prompt` (or `question`) with `completions`, which are the
    steps, and `labels`.

    Raises:
        ValueError: with the reason.
    """
    if isinstance(row.get("question"), dict) and isinstance(row.get("label"), dict):
        return _parse_prm800k(row["question"], row["label"])
    if isinstance(row.get("input"), str) and isinstance(row.get("label"), str) and STEP_END in row["input"]:
        return _parse_math_shepherd(row["input"], row["label"])
    question = next((row[name] for name in ("prompt", "question") if not is_missing(row.get(name))), None)
    if not isinstance(question, str):
        raise ValueError(f"columns {sorted(row)}: there is no question as text{kind_of(row)}")
    refuse_written_out(question, "question")
    refuse_unused(row, used=("labels",))
    steps, labels = row.get("completions"), row.get("labels")
    if not isinstance(steps, list) or not isinstance(labels, list) or len(steps) != len(labels) or not steps:
        raise ValueError(f"completions and labels: wanted two lists of one length{kind_of(row)}")
    if sum("</answer>" in str(step) for step in steps) > 1:
        raise ValueError("several of the completions have an answer: they are solutions, which train_orm reads")
    return question, [Trace([_step(step) for step in steps], [_rating(label) for label in labels])]


def _parse_math_shepherd(text: str, labels: str) -> Traces:
    """Question and steps in one text, each step ended by `ки`; and the same text with + or - in its place."""
    *parts, rest = text.split(STEP_END)
    ratings: list[int | None] = []
    for part in parts:
        sign = labels[len(part) : len(part) + 1]
        if not labels.startswith(part) or sign not in RATINGS:
            raise ValueError(f"label: wanted the input with + or - for each {STEP_END!r}, found {short(labels[:40])}")
        ratings.append(RATINGS[sign])
        labels = labels[len(part) + 1 :]
    if rest.strip() or labels.strip() != rest.strip():
        raise ValueError(f"input: {short(rest.strip())} behind the last {STEP_END!r}")
    question, *first = FIRST_STEP.split(parts[0], maxsplit=1)
    if not first or not question.strip():
        raise ValueError("input: wanted a question, and the steps from 'Step 1:' on")
    return question.strip(), [Trace([_step(step.strip()) for step in (first[0], *parts[1:])], ratings)]


def _parse_prm800k(question: dict[str, Any], label: dict[str, Any]) -> Traces:
    """One row of PRM800K as traces: first the one the labeller followed, then each alternative behind its history.

    The completions of a step are alternatives. The one that was chosen (or, where none was good enough, the one that
    the labeller wrote) is what the next step follows; where the row ends without a choice, it is the first. An
    alternative is learned with the steps before it in sight, but these are labelled only once, in the first trace. A
    row without any rating, and one that the labeller called a bad problem, gives no traces.
    """
    problem, steps = question.get("problem"), label.get("steps")
    if not isinstance(problem, str) or not problem.strip():
        raise ValueError("question.problem: wanted text")
    if not isinstance(steps, list):
        raise ValueError("label.steps: wanted a list")
    if label.get("finish_reason") == "bad_problem":
        return problem, []
    history: list[str] = []
    ratings: list[int | None] = []
    others: list[Trace] = []
    for step in steps:
        if not isinstance(step, dict) or not isinstance(step.get("completions") or [], list):
            raise ValueError("label.steps: wanted steps with completions")
        alternatives = [(_step(c), _rating(c.get("rating"))) for c in _completions(step)]
        chosen, human = step.get("chosen_completion"), step.get("human_completion")
        if chosen is not None and not (isinstance(chosen, int) and 0 <= chosen < len(alternatives)):
            raise ValueError(f"chosen_completion {chosen!r} of {len(alternatives)} completions")
        if chosen is None and human is not None:
            text, rating = _step(human), _rating(human.get("rating") if isinstance(human, dict) else None)
        elif alternatives:
            text, rating = alternatives[chosen or 0]
        else:
            break
        for i, (other, its_rating) in enumerate(alternatives):
            followed = i == (chosen or 0) and not (chosen is None and human is not None)
            if its_rating is not None and not followed:
                others.append(Trace([*history, other], [*[None] * len(history), its_rating], alternative=True))
        history.append(text)
        ratings.append(rating)
        if chosen is None and human is None:
            break
    traces = [Trace(history, ratings), *others]
    return problem, [trace for trace in traces if any(r is not None for r in trace.labels)]


def _completions(step: dict[str, Any]) -> list[dict[str, Any]]:
    completions = step.get("completions") or []
    if not all(isinstance(completion, dict) for completion in completions):
        raise ValueError("label.steps.completions: wanted objects with text and rating")
    return completions


def _step(value: Any) -> str:
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text.strip():
        raise ValueError("a step is empty or not text")
    return text


def _rating(value: Any) -> int | None:
    """-1, 0, 1 or None, also in words; of two classes, true is right and false wrong."""
    if isinstance(value, bool):
        return 1 if value else -1
    if value is None:
        return None
    if isinstance(value, str):
        word = value.strip().lower()
        if word in RATINGS:
            return RATINGS[word]
        value = float(word) if NUMBER.fullmatch(word) else cell_truth(value, "label") * 2 - 1
    if value not in CLASSES:
        raise ValueError(f"label {short(value)}: wanted -1, 0 or 1 (true or false, + or -)")
    return int(value)


def refuse_unclear_labels(rows: Iterable[tuple[str, Any]]) -> None:
    """See that labels which are only 0 and 1 are not taken for neutral and right: they may be wrong and right.

    Raises:
        UserError: there are zeros and ones in lists of labels, and never a -1; with the first row of a 0.
    """
    found: dict[float, str] = {}
    for where, row in rows:
        labels = row.get("labels") if isinstance(row, Mapping) else None
        for label in labels if isinstance(labels, list) else ():
            if not isinstance(label, bool) and label in CLASSES:
                found.setdefault(label, where)
    if 0 in found and 1 in found and -1 not in found:
        raise UserError(
            f"data.path: labels of 0 ({found[0]}) and 1, and none of -1: a step of 0 may be wrong or neutral",
            hint="Write true and false for right and wrong; or -1, 0 and 1 for wrong, neutral and right.",
        )
