"""Word problems with a number for an answer, from a file or the Hub: GSM8K and its like (task name: `word_problems`).

Speaks as `rlhf.tasks.Task` does, so that training and evaluation need not know which of the two they ask.
"""

import hashlib
import re
from decimal import Decimal, InvalidOperation
from random import Random
from typing import Any

from rlhf.data import Row, in_epochs, load_rows, usable
from rlhf.errors import UserError, nearest
from rlhf.tasks import Problem, Verdict, extract_answer, is_held_out

NAME = "word_problems"
PARAMETERS = {"path": "", "split": "train", "question": "question", "answer": "answer", "held_out_path": ""}


class WordProblems:
    """Args:
    parameters: `path` (a Hub id or a file), `split` of a Hub set, the names of the columns `question` and `answer`, and
        `held_out_path` with problems of the same form to evaluate on; without it a fifth is held out by hash.
    answer_in: where a completion has its answer; see `rlhf.tasks.Task`.
    """

    name = NAME

    def __init__(self, parameters: dict[str, Any], *, answer_in: str):
        for key in parameters:
            if key not in PARAMETERS:
                raise UserError(f"task_config: {NAME} has no '{key}': {nearest(key, PARAMETERS)}")
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
        """Right if the number is equal, however it is written: 1,000 = 1000.0 = $1000."""
        answer, well_formed = extract_answer(completion, self.answer_in)
        right = answer is not None and (number := to_number(answer)) is not None and number == to_number(problem.answer)
        return Verdict(exact=float(right), format=float(well_formed), partial=float(right))

    def _read(self, path: str) -> list[Problem]:
        rows = load_rows(path, split=self.parameters["split"])
        parsed = usable(rows, self._parse, say=print)
        return list({problem.question: problem for problem in parsed}.values())

    def _parse(self, row: Row) -> Problem:
        columns = [self.parameters["question"], self.parameters["answer"]]
        for column in columns:
            if not isinstance(row.get(column), str | int | float) or not str(row[column]).strip():
                raise ValueError(f"column '{column}' is missing, empty or no text; there are {sorted(row)}")
        question, worked = (str(row[column]) for column in columns)
        answer = worked.rsplit("####")[-1].strip()
        if to_number(answer) is None:
            raise ValueError(f"the answer '{answer[:40]}' is not a number")
        return Problem(question, answer, {})


def to_number(text: str) -> Decimal | None:
    """'$1,000.50 ' -> 1000.50; None if it is no number. Decimal, so that equal texts are equal numbers."""
    try:
        return Decimal(re.sub(r"[,$%\s]|\.$", "", text))
    except InvalidOperation:
        return None
