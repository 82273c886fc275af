"""Questions of a file with a number as answer, such as GSM8K, as problems that can be verified."""

from collections.abc import Mapping

from rlhf.data import Row, load_rows, usable
from rlhf.tasks import NUMBER, Problem, Verdict


class LastNumber:
    """Right if the last number of a completion is the answer's last number (GSM8K: '#### 18'); 1,000 is 1000."""

    def verify(self, problem: Problem, completion: str) -> Verdict:
        said = _last_number(completion)
        exact = float(said is not None and said == _last_number(problem.answer))
        return Verdict(exact=exact, format=float(said is not None), partial=exact)


def _last_number(text: str) -> float | None:
    found = NUMBER.findall(text.replace(",", ""))
    return float(found[-1]) if found else None


def parse_question(row: Row) -> Problem:
    question, answer = row.get("question"), row.get("answer")
    if not isinstance(question, str) or not question.strip() or not isinstance(answer, str):
        raise ValueError(f"columns {sorted(row)}: wanted question and answer as text")
    if _last_number(answer) is None:
        raise ValueError(f"answer {answer[:40]!r} holds no number")
    entry: Mapping[str, str] = {"question": question, "answer": answer}
    return Problem(question, answer, entry)


def load_questions(path: str, *, split: str, size: int) -> tuple[list[Problem], LastNumber]:
    """The first `size` questions, each once, and what verifies an answer to them."""
    problems = usable(load_rows(path, split=split), parse_question, say=print)
    return list({problem.question: problem for problem in problems}.values())[:size], LastNumber()
