"""Your own prompts as a task: from a file, a folder or the Hub, with or without answers (task name: `prompts`).

`word_problems` is this task with `match: number`: GSM8K and its like.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from rlhf.data.columns import short
from rlhf.data.rows import in_epochs, load_rows
from rlhf.errors import UserError
from rlhf.tasks.extraction import extract_answer
from rlhf.tasks.matching import MATCHES, MATHS, Match
from rlhf.tasks.problem import Problem, Verdict, place_of
from rlhf.tasks.prompt_rows import Names, Say, answer_column, read_problems
from rlhf.tasks.prompt_settings import checked
from rlhf.tasks.verifier_process import verifier_process

NAME = "prompts"
LOOKED_AT = 8  # references that the verifier must call right


class Prompts:
    """Numbered prompts to train on, others held out, and the verdict on an answer where there are references.

    Args:
        train, held_out: no question is in both.
        match: how an answer is compared with the reference, see `rlhf.tasks.matching`; "none" has no verdicts.
        answer_in: where a completion has its answer, see `rlhf.tasks.extraction`.
    """

    def __init__(
        self, train: Sequence[Problem], held_out: Sequence[Problem], *, match: Match, answer_in: str, name: str = NAME
    ):
        self.name, self.match, self.answer_in = name, match, answer_in
        self._train, self._held_out = list(train), list(held_out)
        Random(0).shuffle(self._held_out)  # files are often sorted; the same order in every run

    @property
    def verifies(self) -> bool:
        return self.match.verifies

    @property
    def fingerprint(self) -> str:
        told = [[p.question, p.answer, dict(p.columns)] for p in [*self._train, *self._held_out]]
        text = json.dumps([self.match.name, told], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def train_problems(self, *, seed: int, first: int, count: int) -> list[Problem]:
        """Number `first`, `first + 1`, ... of an endless stream: all prompts, shuffled anew for every pass."""
        return in_epochs(self._train, seed=seed, first=first, count=count)

    def held_out_problems(self, count: int) -> list[Problem]:
        """`count` of them, or as many as there are."""
        return self._held_out[:count]

    def verify(self, problem: Problem, completion: str) -> Verdict | None:
        if self.match.score is None:
            return None
        answer, well_formed = extract_answer(completion, self.answer_in)
        right, failed = self.match.score(answer, problem.answer) if answer is not None else (0.0, "")
        written = None if answer is None else self.match.written(answer)
        return Verdict(exact=right, format=float(well_formed), partial=right, failed=failed, answer=written)


# ---------------------------------------------------------------------------------------------------------- opening


def open_prompts(parameters: Mapping[str, Any], *, answer_in: str, name: str = NAME, say: Say = print) -> Prompts:
    """The task of a file, a folder or a Hub set.

    Args:
        parameters: `path` and `split`, as every command reads data; `prompt` and `answer`, the names of the columns,
            where they have none of the usual; `match`: number, text, math or none. Held out are the prompts of
            `eval_path` or of `eval_split`, or else `eval_share` of all, by hash.

    Raises:
        UserError: a parameter is unknown or of another kind, more than 5 % of the rows cannot be used, or too few are
            left.
    """
    given = checked(parameters, name)
    rows = load_rows(given["path"], split=given["split"])
    match = _match(given, rows)
    names = Names(given["prompt"], given["answer"])
    if match.name == "math":
        verifier_process.start(MATHS)  # it gets ready while the rows are read
    problems = read_problems(rows, names, match, say=say)
    if given["eval_path"] or given["eval_split"]:
        apart = load_rows(given["eval_path"] or given["path"], split=given["eval_split"] or given["split"])
        held_out = read_problems(apart, names, match, say=say)
        known = {problem.question for problem in held_out}
        train = [problem for problem in problems if problem.question not in known]
        if len(train) < len(problems):
            say(f"data: {len(problems) - len(train)} of {len(problems)} prompts are held out too: not trained on")
    else:
        train, held_out = _in_two(problems, given["eval_share"])
    if not train or not held_out:
        raise UserError(
            f"task_config: '{given['path']}' has too few prompts: {len(train)} to train on, {len(held_out)} held out"
        )
    _refuse_unreadable(match, held_out)
    return Prompts(train, held_out, match=match, answer_in=answer_in, name=name)


def open_for_evaluation(parameters: Mapping[str, Any], *, answer_in: str, say: Say = print) -> Prompts:
    """The task of a file all of whose prompts are held out: for models that were not trained on it.

    Raises:
        UserError: as `open_prompts`.
    """
    given = checked(parameters, NAME)
    rows = load_rows(given["path"], split=given["split"])
    match = _match(given, rows)
    problems = read_problems(rows, Names(given["prompt"], given["answer"]), match, say=say)
    _refuse_unreadable(match, problems)
    return Prompts([], problems, match=match, answer_in=answer_in)


def _match(given: Mapping[str, Any], rows: Sequence[tuple[str, Any]]) -> Match:
    """The match that is asked for. Where there are answers, it has to be said: they could be of any kind."""
    if given["match"] is not None:
        return MATCHES[given["match"]]
    objects = (row for _, row in rows if isinstance(row, Mapping))
    found = next((name for row in objects if (name := answer_column(row, given["answer"]))), None)
    if found:
        raise UserError(
            f"task_config: match: the rows have answers ({found}), and how they are compared is not said",
            hint="match: number, text or math; or none, to reward without them.",
        )
    return MATCHES["none"]


def _in_two(problems: Sequence[Problem], share: float) -> tuple[list[Problem], list[Problem]]:
    """(to train on, held out), by the hash of the question; of few questions one at least on each side."""
    questions = sorted({problem.question for problem in problems}, key=place_of)
    number = sum(place_of(question) < share for question in questions)
    apart = {*questions[: min(max(number, 1), len(questions) - 1)]}
    train = [problem for problem in problems if problem.question not in apart]
    return train, [problem for problem in problems if problem.question in apart]


def _refuse_unreadable(match: Match, problems: Sequence[Problem]) -> None:
    """See that the verifier calls the references themselves right, of a few problems; the hardest to read is LaTeX."""
    if match.score is None:
        return
    wrong = [(problem, why) for problem in problems[:LOOKED_AT] if (why := _why_wrong(match, problem)) is not None]
    if len(wrong) * 2 > len(problems[:LOOKED_AT]):
        problem, why = wrong[0]
        raise UserError(
            f"task_config: match: {match.name} calls the reference itself wrong: {short(problem.answer)} "
            f"({problem.where}){why and f' ({why})'}",
            hint="Another match, or another answer column?",
        )


def _why_wrong(match: Match, problem: Problem) -> str | None:
    assert match.score is not None
    score, failed = match.score(problem.answer, problem.answer)
    return None if score == 1 else failed
