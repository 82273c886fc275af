"""Rows to the problems of the task `prompts`: prompt, answer where there is one, and all other columns."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlhf.data.columns import QUESTION, is_missing, kind_of, refuse_unused
from rlhf.data.messages import CONTEXT, CONVERSATIONS, with_context
from rlhf.data.prompts import PROMPTS, asked, prompt_cell
from rlhf.data.rows import Row, refuse_many_unusable, sift_rows
from rlhf.errors import MAX_UNUSABLE, UserError
from rlhf.tasks.matching import Match
from rlhf.tasks.problem import Message, Problem

ANSWERS = ("answer", "ground_truth", "reward_model.ground_truth")  # where an answer is looked for; the last is verl's
ASKED = (*PROMPTS, *CONVERSATIONS)  # where a prompt is looked for
RESERVED = ("prompt", "prompts", "completion", "completions")  # what a reward function is given besides the columns

type Say = Callable[[str], None]


@dataclass(frozen=True)
class Names:
    """The columns that are named in the config; None: whichever of the usual a row has. `a.b` is b inside a."""

    prompt: str | None = None
    answer: str | None = None


def read_problems(rows: Iterable[tuple[str, Any]], names: Names, match: Match, *, say: Say = print) -> list[Problem]:
    """The prompts of rows, each once, in their order. Those whose answers contradict each other are left out.

    Raises:
        UserError: more than 5 % cannot be used, or contradict each other.
    """
    sifted = sift_rows(rows, lambda row: parse_problem(row, names, match))
    refuse_many_unusable([sifted], say=say)
    problems = [replace(problem, where=where) for where, problem in sifted.kept]
    columns = dict.fromkeys(name for problem in problems for name in problem.columns)
    empty = dict.fromkeys(columns)
    return _once_each([replace(it, columns={**empty, **it.columns}) for it in problems], match, say=say)


def parse_problem(row: Row, names: Names, match: Match) -> Problem:
    """A row as a problem: its prompt as text or messages with their context, its answer, and all its columns.

    Raises:
        ValueError: with the reason.
    """
    name = names.prompt or next((name for name in ASKED if not is_missing(row.get(name))), "prompt")
    used = (*CONTEXT, "input", name, str(names.answer))
    cell = prompt_cell(row) if name == "instruction" else cell_of(row, name)
    if is_missing(cell):
        raise ValueError(f"column '{name}' is missing or empty; there are {sorted(row)}{kind_of(row)}")
    refuse_unused(row, used=used, columns=QUESTION)
    messages = with_context(row, asked(str(cell) if isinstance(cell, int | float) else cell))
    if messages[-1]["role"] == "assistant":
        raise ValueError("the prompt ends with the assistant")
    plain = isinstance(cell, str) and len(messages) == 1
    question = messages[0]["content"] if [m["role"] for m in messages] == ["user"] else _transcript(messages)
    answer = _answer(row, names.answer, match)
    columns = {key: value for key, value in row.items() if key not in RESERVED}
    return Problem(question, answer, {}, prompt=() if plain else tuple(messages), columns={**columns, "answer": answer})


def _transcript(messages: Sequence[Message]) -> str:
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _answer(row: Row, asked_for: str | None, match: Match) -> str:
    name = answer_column(row, asked_for)
    cell = cell_of(row, name) if name else None
    if match.verifies and not isinstance(cell, str | int | float):
        wanted = asked_for or "' or '".join(ANSWERS)
        raise ValueError(f"column '{wanted}' is missing, empty or no text; there are {sorted(row)}")
    return match.reference(str(cell)) if isinstance(cell, str | int | float) else ""


def _once_each(problems: Sequence[Problem], match: Match, *, say: Say) -> list[Problem]:
    """Rows that say the same once; prompts that differ in their other columns stay, on the same side of the split."""
    first: dict[str, Problem] = {}
    contradicted: dict[str, Problem] = {}
    kept: dict[str, Problem] = {}
    for problem in problems:
        known = first.setdefault(problem.question, problem)
        if not match.agree(problem.answer, known.answer):
            contradicted.setdefault(problem.question, problem)
        kept.setdefault(json.dumps([problem.question, dict(problem.columns)], sort_keys=True, default=str), problem)
    if contradicted:
        question, other = next(iter(contradicted.items()))
        found = (
            f"{len(contradicted)} of {len(first)} questions have answers that contradict each other "
            f"({question[:60]!r}: {first[question].answer[-20:]!r} and {other.answer[-20:]!r})"
        )
        if len(contradicted) > MAX_UNUSABLE * len(first):
            raise UserError(f"task_config: {found}", hint="Mend or remove them; a run starts with at most 5 % of such.")
        say(f"data: {found}; left out")
    if len(first) < len(problems):
        again = len(problems) - len(kept)
        say(f"data: {len(problems)} rows have {len(first)} different prompts; {again} that repeat a row are left out")
    return [problem for problem in kept.values() if problem.question not in contradicted]


def answer_column(row: Mapping[str, Any], asked_for: str | None) -> str | None:
    names = [asked_for] if asked_for else ANSWERS
    return next((name for name in names if not is_missing(cell_of(row, name))), None)


def cell_of(row: Mapping[str, Any], name: str) -> Any:
    """A column; `a.b` is what `b` is inside `a`."""
    if name in row:
        return row[name]
    outer, _, inner = name.partition(".")
    return cell_of(row[outer], inner) if inner and isinstance(row.get(outer), Mapping) else None
