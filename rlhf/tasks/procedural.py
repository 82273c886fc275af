"""Problems whose answers can be checked: procedural tasks of reasoning-gym, with exact verification.

Training and held-out problems never meet: a problem belongs to one side by the hash of its question, whatever seed or
position it was drawn at. The held-out set of a task is the same for every run.
"""

import hashlib
import io
import json
from collections.abc import Generator, Mapping
from contextlib import chdir, contextmanager, redirect_stdout
from tempfile import TemporaryDirectory
from typing import Any

import rlhf.tasks.step_arithmetic  # noqa: F401 - registers step_arithmetic
from rlhf.errors import UserError, nearest
from rlhf.tasks.conditions import holds
from rlhf.tasks.extraction import extract_answer
from rlhf.tasks.names import refuse_unavailable
from rlhf.tasks.problem import Problem, Verdict, is_held_out
from rlhf.tasks.reasoning_gym import DATASETS, create_dataset
from rlhf.tasks.verifier_checks import refuse_unfit
from rlhf.tasks.verifier_process import VerifiedTask, verifier_process
from rlhf.tasks.verifier_worker import as_score
from rlhf.tasks.verifiers import OWN, is_plain

# reasoning-gym makes draw number i of seed s from the one number s + i. Streams must therefore start far apart: problem
# number n of a stream takes draw STRIDE * n, or, where that is held out, one of the next. A start every 2**24 leaves
# room for 262,144 problems; after that, the odd half stride keeps a stream that runs on between the draws of the next.
# Streams of large seeds may overlap the held-out draws (2**31 and on); harmless, since the hash of a question decides
# its side. Up to seed 254, the numbers stay within the 32 bits that some generators take.
STRIDE = 64
STREAM = 2**24 + STRIDE // 2
HELD_OUT_STREAM = 2**31
# A task that ends is made anew every so many draws, at the seed s + i of its first: its draws keep their numbers.
CHUNK = 512
KEPT = 8  # data sets in memory, of one task
REASONING_GYM = "rlhf.tasks.reasoning_gym"  # what the guarded process imports
HINTS = {"composite": "For several tasks at once, see `tasks`."}
RUN_CODE = frozenset({"codeio"})  # tasks that make a problem by running the programs of their data
PATIENCE = 500  # draws without a new held-out problem, after which a task has no more of them


class ProceduralTask:
    """A procedural task by name, e.g. ProceduralTask("spell_backward", {"max_word_len": 10}).

    Answers are judged by a verifier of our own (rlhf/tasks/verifiers.py), by reasoning-gym's where that only compares
    texts, and else by reasoning-gym's in a process without rights (rlhf/tasks/verifier_process.py), within 1.5 s.
    What that calls right has to hold a condition of ours besides, of some tasks (rlhf/tasks/conditions.py).

    Args:
        answer_in: `think_tags`: <think>...</think><answer>...</answer>; `answer_tag`: an <answer>...</answer> anywhere;
            `last_number`: the last number in the completion (rlhf/tasks/numbers.py); `text`: the whole completion.

    Raises:
        UserError: there is no such task, it does not take the parameters, or its verifier cannot tell right from wrong.
    """

    verifies = True

    def __init__(
        self,
        name: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        answer_in: str = "think_tags",
        check: bool = True,
    ):
        refuse_unavailable(name)
        if name not in DATASETS:
            raise UserError(f"task: there is no task '{name}': {nearest(name, sorted(DATASETS))}")
        self.name, self.answer_in = name, answer_in
        self.parameters = dict(parameters or {})
        self._made: dict[int, Any] = {}
        self._unmade = ""  # the last problem that the task could not make, and why
        self.ends = False
        dataset = self._dataset(seed=0)
        verifier = type(dataset).score_answer
        self.verified_by = "own" if name in OWN else "text" if is_plain(verifier) else "guarded"
        self._verifier = OWN.get(name, dataset.score_answer)
        if self.verified_by == "guarded":
            verifier_process.start(REASONING_GYM)  # it gets ready while the problems below are made
        with _nothing_left(name):
            self.ends = _has_an_end(dataset)
        if self.ends:
            self._made.clear()
        self._guarded: VerifiedTask | None = None
        if check:
            refuse_unfit(self)

    @property
    def fingerprint(self) -> str:
        """Of what the task asks: the same for the same problems."""
        text = json.dumps([self.name, self.parameters, [p.question for p in self.held_out_problems(5)]], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def train_problems(self, *, seed: int, first: int, count: int) -> list[Problem]:
        """Problems number `first`, `first + 1`, ... of the endless training stream that `seed` names."""
        return [self._train_problem(seed, index) for index in range(first, first + count)]

    def held_out_problems(self, count: int) -> list[Problem]:
        """`count` different problems that no training stream contains."""
        found = dict[str, Problem]()
        index = last_new = 0
        while index < last_new + PATIENCE:
            problem = self._draw(HELD_OUT_STREAM, index)
            index += 1
            if problem is not None and is_held_out(problem.question) and problem.question not in found:
                found[problem.question] = problem
                last_new = index
            if len(found) == count:
                return list(found.values())
        raise self._too_few(
            f"has only {len(found)} different held-out problems, {count} were asked for",
            "Ask for fewer (eval_problems), or make the task larger (task_config).",
        )

    def some_problems(self, count: int) -> list[Problem]:
        """`count` problems from anywhere, to look at the task."""
        drawn = (self._draw(HELD_OUT_STREAM, STRIDE * index) for index in range(2 * count))
        found = [problem for problem in drawn if problem is not None][:count]
        if not found and self._unmade:
            raise self._too_few("makes no problems", "Change task_config.")
        return found

    def verify(self, problem: Problem, completion: str) -> Verdict:
        answer, well_formed = extract_answer(completion, self.answer_in)
        score, failed = self.score(problem, answer) if answer is not None else (0.0, "")
        # Not `>= 1`: rounding lets partial credit end just above 1 (spell_backward: the answer and a letter too many).
        exact = float(score == 1.0)
        partial = min(max(score, 0.0), 1.0)
        return Verdict(exact=exact, format=float(well_formed), partial=partial, failed=failed, answer=answer)

    def score(self, problem: Problem, answer: str) -> tuple[float, str]:
        """The verifier's score of an answer, and "" or why there is none; the score is 0 then."""
        if self.verified_by != "guarded":
            try:
                return as_score(self._verifier(answer, problem.entry)), ""
            except Exception as error:
                return 0.0, f"{type(error).__name__}: {error}"
        if self._guarded is None:
            module = DATASETS[self.name][0].__module__
            parameters = {**self.parameters, "seed": 0}
            example = {"entry": problem.entry, "answer": problem.answer}
            self._guarded = VerifiedTask(self.name, parameters, module=module, **example)
        score, failed = verifier_process.score(self._guarded, problem.entry, answer)
        return (score if score < 1.0 or holds(self.name, answer, problem.entry) else 0.0), failed

    def _train_problem(self, seed: int, index: int) -> Problem:
        for attempt in range(STRIDE):  # each is on the training side with probability 0.8
            problem = self._draw(STREAM * (seed + 1), STRIDE * index + attempt)
            if problem is not None and not is_held_out(problem.question):
                return problem
        raise self._too_few("has too few problems to train on", "Change task_config or the seed.")

    def _too_few(self, found: str, hint: str) -> UserError:
        why = f"; {self._unmade}" if self._unmade else ""
        return UserError(f"task: '{self.name}' with {self.parameters} {found}{why}", hint=hint)

    def _draw(self, seed: int, index: int) -> Problem | None:
        """Draw number `index` of a stream; None where the task has no problem to give, or cannot make this one.

        Some tasks fail at one problem in thousands (codeio at answers that JSON cannot write), always at the same.
        """
        place = index % CHUNK if self.ends else index
        try:
            with _nothing_left(self.name):
                return _problem(self._dataset(seed=seed + index - place)[place])
        except IndexError:  # word_ladder finds no further pair of words, and then believes to be shorter
            self._made.pop(seed + index - place, None)
            return None
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            self._unmade = f"it cannot make problem {index} of seed {seed}: {type(error).__name__}: {error}"
            return None

    def _dataset(self, seed: int) -> Any:
        if seed not in self._made:
            chunk = {"size": CHUNK} if self.ends else {}
            if len(self._made) >= KEPT:
                self._made.pop(next(iter(self._made)))
            try:
                self._made[seed] = create_dataset(self.name, **{**self.parameters, "seed": seed, **chunk})
            except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
                raise UserError(
                    f"task_config: '{self.name}' does not take {self.parameters}: {error}", hint=HINTS.get(self.name)
                ) from error
        return self._made[seed]


@contextmanager
def _nothing_left(name: str) -> Generator[None]:
    """What the programs of a task's data print or write while a problem is made is thrown away: they write files into
    the current folder."""
    if name not in RUN_CODE:
        yield
        return
    with TemporaryDirectory() as folder, chdir(folder), redirect_stdout(io.StringIO()):
        yield


def _has_an_end(dataset: Any) -> bool:
    """Whether a data set has a last problem, as some have; others make any number that is asked for."""
    try:
        dataset[HELD_OUT_STREAM]
    except IndexError:
        return True
    except Exception:  # of that problem, which nobody has asked for
        return False
    return False


def _problem(entry: Mapping[str, Any]) -> Problem:
    """Some tasks have no answer of their own (None), and some one that is no text."""
    answer = "" if entry["answer"] is None else str(entry["answer"])
    if not isinstance(entry["answer"], str | None):
        entry = {**entry, "answer": answer}
    return Problem(entry["question"], answer, entry, columns={"answer": answer})
