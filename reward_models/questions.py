"""Questions of a file with a number as answer, such as GSM8K, as problems that can be verified."""

from collections.abc import Mapping

from rlhf.data.columns import QUESTION, refuse_unused
from rlhf.data.rows import Row, load_rows, usable
from rlhf.tasks.numbers import last_number
from rlhf.tasks.problem import Problem, Verdict
from rlhf.tasks.word_problems import one_answer_each


class LastNumber:
    """Right if the last number of a completion is that of the answer (GSM8K: '#### 18'), however it is written."""

    def verify(self, problem: Problem, completion: str) -> Verdict:
        said = last_number(completion)
        exact = float(said is not None and said == last_number(problem.answer))
        return Verdict(exact=exact, format=float(said is not None), partial=exact)


def parse_question(row: Row) -> Problem:
    question, answer = row.get("question"), row.get("answer")
    if not isinstance(question, str) or not question.strip() or not isinstance(answer, str):
        raise ValueError(f"columns {sorted(row)}: wanted question and answer as text")
    refuse_unused(row, used=(), columns=QUESTION)
    if last_number(answer) is None:
        raise ValueError(f"answer {answer[:40]!r} holds no number")
    entry: Mapping[str, str] = {"question": question, "answer": answer}
    return Problem(question, answer, entry)


def load_questions(path: str, *, split: str, size: int) -> tuple[list[Problem], LastNumber]:
    """The first `size` questions, each once, and what verifies an answer to them."""
    problems = usable(load_rows(path, split=split), parse_question, say=print)
    return one_answer_each(problems, path, say=print)[:size], LastNumber()
