"""Word problems with a number for an answer, from a file or the Hub: GSM8K and its like (task name: `word_problems`).

Speaks as `rlhf.tasks.problem.Task` does, so that training and evaluation need not know which of the two they ask.
"""

import hashlib
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from rlhf.data.columns import QUESTION, refuse_unused, short
from rlhf.data.rows import Row, in_epochs, load_rows, usable
from rlhf.errors import MAX_UNUSABLE, UserError, nearest
from rlhf.tasks.numbers import last_number, read_number
from rlhf.tasks.problem import Problem, Verdict
from rlhf.tasks.procedural import extract_answer, is_held_out

NAME = "word_problems"
PARAMETERS = {"path": "", "split": "train", "question": "question", "answer": "answer", "held_out_path": ""}


class WordProblems:
    """Args:
    parameters: `path` (a Hub id or a file), `split` of a Hub set, the names of the columns `question` and `answer`, and
        `held_out_path` with problems of the same form to evaluate on; without it a fifth is held out by hash.
    answer_in: where a completion has its answer; see `rlhf.tasks.problem.Task`.
    """

    name = NAME

    def __init__(self, parameters: dict[str, Any], *, answer_in: str):
        for key in parameters:
            if key not in PARAMETERS:
                raise UserError(f"task_config: {NAME} has no '{key}': {nearest(key, PARAMETERS)}")
        for key, value in parameters.items():
            if not isinstance(value, str) and not (value is None and key in ("path", "held_out_path")):
                raise UserError(f"task_config: {key}: wanted text, found {short(value)}")
        if not parameters.get("path"):
            raise UserError(
                f"task_config: {NAME} needs a path",
                hint="For example --task_config '{path: openai/gsm8k:main}', or a file.",
            )
        self.parameters, self.answer_in = {**PARAMETERS, **parameters}, answer_in
        problems = self._read(self.parameters["path"])
        if self.parameters["held_out_path"]:
            held_out = self._read(self.parameters["held_out_path"])
            known = {p.question for p in held_out}
            self._train, self._held_out = [p for p in problems if p.question not in known], held_out
        else:
            self._train = [p for p in problems if not is_held_out(p.question)]
            self._held_out = [p for p in problems if is_held_out(p.question)]
        if not self._train or not self._held_out:
            raise UserError(f"task_config: '{self.parameters['path']}' has too few problems to train on some")
        Random(0).shuffle(self._held_out)  # files are often sorted; the same order in every run

    @property
    def fingerprint(self) -> str:
        text = "\n".join(p.question + p.answer for p in [*self._train, *self._held_out])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def train_problems(self, *, seed: int, first: int, count: int) -> list[Problem]:
        """Number `first`, `first + 1`, ... of an endless stream: all problems, shuffled anew for every pass."""
        return in_epochs(self._train, seed=seed, first=first, count=count)

    def held_out_problems(self, count: int) -> list[Problem]:
        if count > len(self._held_out):
            raise UserError(
                f"task: {NAME} has {len(self._held_out)} held-out problems, {count} were asked for",
                hint="Ask for fewer (eval_problems).",
            )
        return self._held_out[:count]

    def verify(self, problem: Problem, completion: str) -> Verdict:
        """Right if the number is equal, however it is written: 1,000 = 1000.0 = $1000 = 1000 dollars."""
        answer, well_formed = extract_answer(completion, self.answer_in)
        number = read_number(answer) if answer is not None else None
        right = number is not None and number == read_number(problem.answer)
        return Verdict(exact=float(right), format=float(well_formed), partial=float(right))

    def _read(self, path: str) -> list[Problem]:
        rows = load_rows(path, split=self.parameters["split"])
        parsed = usable(rows, self._parse, say=print)
        return one_answer_each(parsed, path, say=print)

    def _parse(self, row: Row) -> Problem:
        columns = [self.parameters["question"], self.parameters["answer"]]
        for column in columns:
            if not isinstance(row.get(column), str | int | float) or not str(row[column]).strip():
                raise ValueError(f"column '{column}' is missing, empty or no text; there are {sorted(row)}")
        refuse_unused(row, used=columns, columns=QUESTION)
        question, worked = (str(row[column]) for column in columns)
        answer = worked.rsplit("####")[-1].strip()
        if read_number(answer) is None:
            raise ValueError(f"the answer '{answer[:40]}' is not a number")
        return Problem(question, answer, {})


def one_answer_each(problems: Iterable[Problem], path: str, *, say: Callable[[str], None]) -> list[Problem]:
    """Each question once. Questions with answers that contradict each other are left out, since none can be trusted.

    Raises:
        UserError: more than 5 % of the questions have several answers.
    """
    first: dict[str, Problem] = {}
    contradicted: dict[str, Problem] = {}
    for problem in problems:
        known = first.setdefault(problem.question, problem)
        if last_number(known.answer) != last_number(problem.answer):
            contradicted.setdefault(problem.question, problem)
    if contradicted:
        question, other = next(iter(contradicted.items()))
        found = (
            f"{len(contradicted)} of {len(first)} questions have answers that contradict each other "
            f"({question[:60]!r}: {first[question].answer[-20:]!r} and {other.answer[-20:]!r})"
        )
        if len(contradicted) > MAX_UNUSABLE * len(first):
            raise UserError(f"'{path}': {found}", hint="Mend or remove them; a run starts with at most 5 % of such.")
        say(f"data: {found}; left out")
    return [problem for question, problem in first.items() if question not in contradicted]
