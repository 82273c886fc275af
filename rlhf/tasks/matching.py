"""How an answer is compared with the reference: as a number, as text, as mathematics, or not at all."""

from collections.abc import Callable
from dataclasses import dataclass

from rlhf.tasks.numbers import read_number, write_number
from rlhf.tasks.verifier_process import VerifiedTask, verifier_process

MATHS = "rlhf.tasks.math_answers"  # what the guarded process imports


@dataclass(frozen=True)
class Match:
    """Args:
    reference: what is compared of a reference answer; ValueError where it is none.
    score: (answer, reference) -> (1 or 0, why there is no verdict or ""); None: nothing is compared.
    written: an answer in the one form of all answers that say the same, as far as that is known without a reference.
    """

    name: str
    reference: Callable[[str], str]
    score: Callable[[str, str], tuple[float, str]] | None
    written: Callable[[str], str] = str.strip

    @property
    def verifies(self) -> bool:
        return self.score is not None

    def agree(self, one: str, other: str) -> bool:
        """Whether two references are the same answer."""
        return one == other or self.score is None or self.score(one, other)[0] == 1


def _number(text: str) -> str:
    """Behind GSM8K's ####, where there is one."""
    answer = text.rsplit("####")[-1].strip()
    if read_number(answer) is None:
        raise ValueError(f"the answer '{answer[:40]}' is not a number")
    return answer


def _as_number(answer: str) -> str:
    number = read_number(answer)
    return answer.strip() if number is None else write_number(number)


def _same_number(answer: str, reference: str) -> tuple[float, str]:
    """However it is written: 1,000 = 1000.0 = $1000 = 1000 dollars."""
    number = read_number(answer)
    return float(number is not None and number == read_number(reference)), ""


def _same_text(answer: str, reference: str) -> tuple[float, str]:
    """But for case and white space."""
    return float(answer.split() != [] and _plain(answer) == _plain(reference)), ""


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _same_mathematics(answer: str, reference: str) -> tuple[float, str]:
    task = VerifiedTask("", {}, module=MATHS, entry={"answer": "1"}, answer="1")
    return verifier_process.score(task, {"answer": reference}, answer)


MATCHES = {
    "number": Match("number", _number, _same_number, _as_number),
    "text": Match("text", str.strip, _same_text, _plain),
    "math": Match("math", str.strip, _same_mathematics),
    "none": Match("none", str.strip, None),
}
