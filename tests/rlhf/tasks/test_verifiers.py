"""An answer is data, never code, and always gets a verdict."""

import json
import os
import pickle
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import UserError
from rlhf.tasks.check import examine, odd_answers
from rlhf.tasks.conditions import CONDITIONS, holds
from rlhf.tasks.expressions import NotAnExpression, plain_value, symbolic
from rlhf.tasks.problem import Problem
from rlhf.tasks.procedural import ProceduralTask
from rlhf.tasks.reasoning_gym import DATASETS
from rlhf.tasks.verifier_checks import differ, why_unfit
from rlhf.tasks.verifier_process import VerifiedTask, VerifierProcess, _read_reply, verifier_process
from rlhf.tasks.verifiers import OWN, arithmetic, is_plain

# Those whose verifiers evaluate an answer, raise, never end, or call wrong answers right in reasoning-gym; those that
# end; and one that only compares texts. `python -m rlhf.tasks.check` tries all.
SOME = [
    *("binary_matrix", "n_queens", "spiral_matrix", "string_insertion", "bitwise_arithmetic"),
    *("polynomial_multiplication", "simple_integration", "intermediate_integration", "countdown", "puzzle24"),
    *("prime_factorization", "boxnet", "rubiks_cube", "survo", "quantum_lock", "codeio", "pool_matrix"),
    *("coin_flip", "complex_arithmetic", "game_of_life", "game_of_life_halting", "number_sorting", "figlet_font"),
    *("gsm_symbolic", "word_ladder", "list_functions", "acre", "ab"),
]


@pytest.mark.parametrize("name", SOME)
def test_no_odd_answer_runs_raises_lasts_or_is_right(name: str) -> None:
    found = examine(name, problems=3)
    assert not found.unfit
    assert not found.executed
    assert found.wrong_right == ()
    assert found.longest < 2
    right, of = found.own_right.split("/") if found.own_right != "-" else (0, 0)
    assert right == of, "the task's own answers are right"


def answered(name: str, answer: str) -> list[float]:
    task = ProceduralTask(name, answer_in="text")
    return [task.verify(problem, answer).exact for problem in task.train_problems(seed=0, first=0, count=6)]


def test_verifiers_that_took_anything_for_right_no_longer_do() -> None:
    assert answered("game_of_life_halting", "banana") == [0] * 6
    assert answered("coin_flip", "0") == [0] * 6
    assert answered("complex_arithmetic", "nan") == [0] * 6
    task = ProceduralTask("number_sorting")
    for problem in task.some_problems(3):
        numbers = eval(problem.answer)
        assert task.score(problem, str(numbers))[0] == 1
        for wrong in (["NaN"] * len(numbers), [str(float(n) + 0.9) for n in numbers], numbers[::-1], numbers[1:]):
            assert task.score(problem, str(wrong).replace("'NaN'", "NaN"))[0] == 0
    halting = ProceduralTask("game_of_life_halting")
    for problem in halting.some_problems(3):
        assert halting.score(problem, problem.answer)[0] == 1
        assert halting.score(problem, str(problem.answer != "True"))[0] == 0


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("6*(3 - 8 + 9)", 1.0),
        ("6*(3-8+9) ", 1.0),
        ("(9 - 8 + 3)*6", 1.0),
        ("6*4*1*1", 0.05),  # 24, of other numbers
        ("6*3 + 8 - 9", 0.05),
        ("6*3*8*9", 0.05),
        ("6*(3 - 8 + 9.0)", 0.01),
        ("6/0 + 3 + 8 + 9", 0.01),
        ("24", 0.05),
        ("9**9**9", 0.01),
        ("__import__('os').getcwd()", 0.01),
        ("", 0.01),
    ],
)
def test_expressions_must_use_the_numbers_and_reach_the_target(answer: str, score: float) -> None:
    assert OWN["puzzle24"](answer, {"metadata": {"numbers": [6, 3, 8, 9]}}) == score
    assert OWN["countdown"](answer, {"metadata": {"numbers": [6, 3, 8, 9], "target": 24}}) == score


@cache
def one_problem(name: str) -> tuple[ProceduralTask, Problem]:
    task = ProceduralTask(name, answer_in="text")
    return task, task.some_problems(1)[0]


@pytest.mark.parametrize(
    "answer", ["1e999999999", "1e-999999999", "1/1e99999999", "9" * 1_000_000, "nan", "inf", "1e400"]
)
def test_verifiers_of_our_own_compute_no_number_without_end(answer: str) -> None:
    """They run in the process that trains, which nothing interrupts."""
    for name in OWN:
        task, problem = one_problem(name)
        began = time.process_time()
        verdict = task.verify(problem, answer)
        assert time.process_time() - began < 1
        assert verdict.exact == 0
        assert not verdict.failed


@pytest.mark.parametrize("answer", ["24or 3", "1if 2else 3", r"'\d'"])
def test_an_answer_that_python_warns_of_says_nothing(answer: str) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(NotAnExpression):
            arithmetic(answer)
    assert not said


def test_arithmetic_is_exact_and_bounded() -> None:
    assert arithmetic("1/3 + 1/3 + 1/3")[0] == 1
    for text in (
        "9" * 61,
        "2**3",
        "1 if 1 else 2",
        "True",
        "[1]",
        "(" * 900 + "1" + ")" * 900,
        "1" + "+1" * 9000,
        "f(1)",
    ):
        with pytest.raises(NotAnExpression):
            arithmetic(text)


def test_expressions_are_read_and_not_evaluated() -> None:
    """Equal to Python's and sympy's own where they are expressions; refused where they are code or too large."""
    import sympy

    for text in (
        "[[0, 1], [1, 0]]",
        "['a', 'b']",
        "(1, -2)",
        "0x3a << 2",
        "7*2**3 - 1//2",
        "{'a': 1.5}",
        "~5 & 3 | 4 ^ 1",
        "2%3",
    ):
        assert plain_value(text) == eval(text)
    x = sympy.Symbol("x")
    for text in ("x*atan(x) - log(x**2 + 1)/2", "-10*x**9 + 3*x**8/7", "sqrt(2)*exp(-x)", "1/2 + 0.5", "x**-1", "E*pi"):
        assert symbolic(text, {"x": x}) == sympy.parse_expr(text, local_dict={"x": x})
    hostile = [
        "__import__('os')",
        "open('f', 'w')",
        "x.diff",
        "9**9**9",
        "(2**1000)**1000",
        "lambda: 0",
        "[i for i in x]",
    ]
    hostile += [
        "1 << 10**9",
        "'a'*10**9",
        "[0]*10**9",
        "-" * 5000 + "1",
        "x" * 30_000,
        "factorial(10**9)",
        "f'{x}'",
        "(x := 1)",
    ]
    for text in hostile:
        with pytest.raises(NotAnExpression):
            plain_value(text)
        with pytest.raises(NotAnExpression):
            symbolic(text, {"x": x})


# ------------------------------------------------------------------------------------- what is right, is so as a whole


def between_digits(answer: str, mark: str) -> str:
    """The answer with a mark before its last digit, if that is one of two or more."""
    return re.sub(r"(?<=\d)(\d)$", rf"{mark}\1", answer)


# Wrong answers, made of a right one, that reasoning-gym's verifiers call right.
NEARLY_RIGHT: dict[str, list[Callable[[str], str]]] = {
    "advanced_geometry": [lambda a: f"{a.removesuffix(')')}, 99)" if a.startswith("(") else f"{a} or {a}"],
    "chain_sum": [lambda a: between_digits(a, ","), lambda a: between_digits(a, "_")],
    "codeio": [
        lambda a: re.sub(r": (\d+)", r': "\1"', a, count=1),
        lambda a: re.sub(r'("\w+":)', r"\1 0, \1", a, count=1),
    ],
    "cryptarithm": [lambda a: f"{a[0]}=7,{a}"],
    "decimal_arithmetic": [
        lambda a: a if len(a) > 12 else a[:-1] + str(9 - int(a[-1])),
        lambda a: between_digits(a, "_"),
    ],
    "decimal_chain_sum": [lambda a: between_digits(a, "_")],
    "fraction_simplification": [lambda a: f"{a} + 1", lambda a: f"{a}, or not", lambda a: f"{a}7"],
    "group_anagrams": [lambda a: re.sub(r'\["(\w+)", "(\w+)"\]', r'{"\1": 0, "\2": 1}', a)],
    "kakurasu": [lambda a: f"not {a}", lambda a: f"{a} 7"],
    "knights_knaves": [lambda a: f"It is false that {a}", lambda a: f"{a} No!"],
    "letter_jumble": [lambda a: f"{a} and more"],
    "number_format": [lambda a: str(float(a) - 0.003), lambda a: f"{a[:3]},{a[3:]}"],
    "palindrome_partitioning": [lambda a: json.dumps(["".join(json.loads(a)[0]), *json.loads(a)[1:]])],
    "polynomial_equations": [lambda a: f"{a}, 5 or 7", lambda a: f"{a}, −5", lambda a: f"{a}, x"],
    "pool_matrix": [lambda a: f"{a} # not", lambda a: re.sub(r"(\d)$", r"\g<1>9" if "." in a else r"\1.04", a)],
    "products": [lambda a: between_digits(a, ","), lambda a: between_digits(a, "_")],
    "quantum_lock": [lambda a: f"not {a}", lambda a: f"{a}, or so"],
    "sokoban": [lambda a: f"if {a}", lambda a: f"{a} not"],
    "survo": [lambda a: f"not {a}"],
    "time_intervals": [
        lambda a: a.replace(" days", " weeks") if a.endswith("days") else re.sub(r"\.(\d+)$", r".0\1", f"{a},")
    ],
    "word_sorting": [lambda a: f"{a}, more", lambda a: f"{a}, {a}"],
}


@pytest.mark.parametrize("name", NEARLY_RIGHT)
def test_a_right_answer_with_more_to_it_is_wrong(name: str) -> None:
    task = ProceduralTask(name, answer_in="text", check=False)
    for problem in task.some_problems(12):
        assert task.score(problem, problem.answer) == (1.0, "")
        for change in NEARLY_RIGHT[name]:
            wrong = change(problem.answer)
            assert wrong == problem.answer or task.score(problem, wrong)[0] < 1, (wrong, problem.answer)


def test_a_duration_is_read_as_it_is_written() -> None:
    task = ProceduralTask("time_intervals")
    kinds = {p.entry["metadata"]["task_type"]: p for p in task.some_problems(100)}
    assert len(kinds) == 6
    timed, dated, both = (kinds[kind] for kind in ("time_ms", "date", "datetime"))
    hours, minutes, seconds = timed.answer.split(":")
    whole, thousandths = seconds.split(".")
    wrong = [
        f"{hours}:{minutes}:{whole}.0{thousandths}",
        f"{hours}:{minutes}:0.{whole}{thousandths}",
        f"{timed.answer}, 1",
    ]
    assert [task.score(timed, answer)[0] for answer in (timed.answer, *wrong)] == [1, 0, 0, 0]
    number = dated.answer.split()[0]
    answers = [number, f"{number} days", f"{number} weeks", f"{number} or 7", f"{number} -7"]
    assert [task.score(dated, answer)[0] for answer in answers] == [1, 1, 0, 0, 0]
    assert [task.score(both, both.answer + more)[0] for more in ("", ", or more", ":61")] == [1, 0, 0]


def test_a_target_is_not_moved_to_its_box() -> None:
    entry = {"metadata": {"initial_state": {"0.5_0.5": ["box_red"], "0.5_1.5": ["target_red"]}}}
    steps = '[{"Agent[0.5, %s]": "move(%s_red, square[0.5, %s])"}, {"Agent[0.5, %s]": "move(box_red, target_red)"}]'
    box, target = steps % (0.5, "box", 1.5, 1.5), steps % (1.5, "target", 0.5, 0.5)
    task = ProceduralTask("boxnet", check=False)
    for answer, score in ((box, 1), (target, 0), (target.replace("target", "t\\u0061rget"), 0)):
        assert task.score(Problem("q", "", entry), answer)[0] == score


def test_a_box_moves_once_in_a_step() -> None:
    """Each agent moves what stands in its square when the step begins: two boxes of a color move at once, and one box
    is not handed on."""

    def move(*columns: float) -> dict[str, str]:
        return {f"Agent[0.5, {x}]": f"move(box_red, square[0.5, {x + 1}])" for x in columns}

    def score(state: dict[str, list[str]], *steps: dict[str, str]) -> float:
        entry = {"metadata": {"initial_state": state}}
        return task.score(Problem("q", "", entry), json.dumps(steps))[0]

    task = ProceduralTask("boxnet", check=False)
    away = {"0.5_0.5": ["box_red"], "0.5_1.5": [], "0.5_2.5": ["target_red"]}
    found = {"Agent[0.5, 2.5]": "move(box_red, target_red)"}
    assert score(away, move(0.5), move(1.5), found) == 1
    assert score(away, move(0.5, 1.5), found) == 0
    assert score(away, move(0.5), move(1.5) | found) == 0
    both = {"0.5_0.5": ["box_red"], "0.5_1.5": ["box_red"], "0.5_2.5": ["target_red", "target_red"]}
    assert score(both, move(0.5, 1.5), move(1.5), found, found) == 1


def test_colors_are_those_of_the_question() -> None:
    task = ProceduralTask("graph_color")
    for problem in task.some_problems(3):
        right = json.dumps(problem.entry["metadata"]["possible_answer"])
        assert task.score(problem, right)[0] == 1
        for wrong in (right.replace(": 1", ": true"), right.replace(": 1", ": 1.0"), right.replace("{", '{"0": 3, ')):
            assert task.score(problem, wrong)[0] == 0


@pytest.mark.parametrize("name", CONDITIONS)
def test_conditions_take_no_time_and_never_raise(name: str) -> None:
    (problem,) = ProceduralTask(name, check=False).some_problems(1)
    pieces = ("1", " ", "a", "(", "A is a ", "1,", "-1 ", "1.", "[", '{"a":', "\\frac{", "1e", "\n", "\x00", "$", "A, ")
    for answer in ("", *(piece * (100_000 // len(piece)) + end for piece in pieces for end in ("", "!"))):
        began = time.process_time()
        holds(name, answer, problem.entry)
        assert time.process_time() - began < 1, answer[:10]


# --------------------------------------------------------------------------------------------------- the opening check


class Fake:
    """A task of four problems whose verifier is given."""

    name = "fake"
    parameters: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, verifier, answers=("a1", "b2", "c3", "d4")):
        self.verifier, self.answers = verifier, answers

    def some_problems(self, count: int) -> list[Problem]:
        return [Problem(f"q {answer}", answer, {}) for answer in self.answers][:count]

    def score(self, problem: Problem, answer: str) -> tuple[float, str]:
        return self.verifier(problem, answer), ""


@pytest.mark.parametrize(
    ("verifier", "answers", "reason"),
    [
        (lambda p, a: float(a == p.answer), ("a1", "b2", "c3", "d4"), ""),
        (lambda p, a: 1.0, ("a1", "b2", "c3", "d4"), "calls '' right where the answer is 'a1'"),
        (lambda p, a: float(bool(a)), ("a1", "b2", "c3", "d4"), "calls '0' right"),
        (lambda p, a: float(a in (p.answer, "nan")), ("a1", "b2"), "calls 'nan' right"),
        (lambda p, a: float(a[:1] in "abcd"), ("a1", "b2"), "calls '' right"),
        (
            lambda p, a: float(a in {"a1", "b2"}),
            ("a1", "b2"),
            "'b2', the answer to another problem, right where it is 'a1'",
        ),
        (lambda p, a: 0.0, ("a1", "b2"), "the task's own answer 'a1' wrong"),
        (lambda p, a: 0.0, ("", ""), ""),  # it has no answers of its own
        (lambda p, a: float(a == p.answer or a.lower() == p.answer.lower()), ("None", "NONE"), ""),
    ],
)
def test_a_task_that_cannot_tell_right_from_wrong_is_found(verifier, answers: tuple[str, ...], reason: str) -> None:
    fake = Fake(verifier, answers)
    found = why_unfit(fake, fake.some_problems(4))
    assert reason in found
    assert bool(reason) == bool(found)


def test_a_task_with_a_bad_verifier_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OWN, "ab", lambda answer, entry: 1.0)
    with pytest.raises(UserError, match=r"'ab' with .* cannot be trained on: its verifier calls '' right"):
        ProceduralTask("ab", {"length": 7})


def test_answers_differ_in_more_than_how_they_are_written() -> None:
    assert differ("a", "b")
    assert differ("0", "0.004")
    assert not differ("No", " no")
    assert not differ("0", "0.0")
    assert not differ("1", "1.004")


def test_which_verifiers_need_no_guard_is_read_from_their_code() -> None:
    plain = {name for name, (dataset, _) in DATASETS.items() if is_plain(dataset.score_answer)}
    assert {"spell_backward", "step_arithmetic", "ab", "gcd", "caesar_cipher"} <= plain
    for name, (dataset, _) in DATASETS.items():
        if name in plain:
            assert not {"eval", "exec", "parse_expr", "loads", "int"} & set(dataset.score_answer.__code__.co_names)
    assert not is_plain(eval)
    assert not is_plain(lambda answer, entry: [eval(a) for a in answer])


# ------------------------------------------------------------------------------------------------------ endless streams


@pytest.mark.parametrize("name", ["gsm_symbolic", "word_ladder", "list_functions", "acre"])
def test_tasks_that_end_are_an_endless_stream(name: str) -> None:
    """Problems far beyond a data set's end, the same from any task object and in any order, and none held out."""
    task, again = ProceduralTask(name), ProceduralTask(name)
    assert task.ends
    held_out = {p.question for p in task.held_out_problems(10)}
    for first in (0, 7, 8, 20_000):
        problems = task.train_problems(seed=3, first=first, count=3)
        assert not held_out & {p.question for p in problems}
        assert again.train_problems(seed=3, first=first + 2, count=1) == problems[2:]
    assert again.train_problems(seed=3, first=0, count=3) == task.train_problems(seed=3, first=0, count=3)
    questions = {p.question for p in task.train_problems(seed=3, first=0, count=60)}
    assert len(questions) > 50, "chunks are not the same problems again"


def test_a_task_that_cannot_be_configured_says_what_to_use_instead() -> None:
    with pytest.raises(UserError, match="'composite' does not take") as caught:
        ProceduralTask("composite")
    assert "tasks" in str(caught.value.hint)
    with pytest.raises(UserError, match="'composite' does not take"):
        ProceduralTask("composite", {"datasets": [{"name": "ab"}]})


def test_odd_answers_are_fifteen_different_ones(tmp_path: Path) -> None:
    assert len(set(odd_answers(tmp_path / "canary"))) == 15


# ------------------------------------------------------------------------------------------------- the guarded process

HOSTILE = """
import builtins, os, socket, subprocess, sys, time
from reasoning_gym.factory import ProceduralDataset, register_dataset
from dataclasses import dataclass

@dataclass
class Config:
    seed: int | None = None
    size: int = 500

class Hostile(ProceduralDataset):
    def __init__(self, config):
        super().__init__(config=config, seed=config.seed, size=config.size)
    def __getitem__(self, idx):
        return {"question": f"q{idx}", "answer": f"answer {idx}", "metadata": {"canary": CANARY}}
    def score_answer(self, answer, entry):
        canary = entry["metadata"]["canary"]
        deeds = {
            "open": lambda: open(canary, "w"),
            "os.open": lambda: os.open(canary, os.O_WRONLY | os.O_CREAT),
            "mkdir": lambda: os.mkdir(canary),
            "rename": lambda: os.rename(__file__, canary),
            "remove": lambda: os.remove(__file__),
            "symlink": lambda: os.symlink("/", canary),
            "system": lambda: os.system(f"touch {canary}"),
            "run": lambda: subprocess.run(["touch", canary]),
            "fork": os.fork,
            "kill": lambda: os.kill(os.getppid(), 9),
            "socket": lambda: socket.socket(),
            "ctypes": lambda: __import__("ctypes").CDLL(None),
            "eval": lambda: builtins.eval(f"open({canary!r}, 'w')"),
            "exec": lambda: builtins.exec("import os; os.getpid()"),
            "spin": lambda: sum(iter(int, 1)),
            "power": lambda: 9**9**9,
            "memory": lambda: bytearray(2**34),
            "exit": sys.exit,
            "die": lambda: os._exit(3),
            "recurse": lambda: self.score_answer("recurse", entry),
            "nan": lambda: float("nan"),
            "inf": lambda: float("inf"),
            "text": lambda: "much",
            "none": lambda: None,
            "two": lambda: 2.0,
            "below": lambda: -1.0,
            "print": lambda: print("x" * 9999) or 0.0,
            "environment": lambda: float(any("KEY" in name for name in os.environ)),
        }
        return deeds[answer]() if answer in deeds else float(answer == entry["answer"])

register_dataset("hostile", Hostile, Config)
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A task whose verifier does what its answer says."""
    folder = tmp_path_factory.mktemp("hostile")
    canary = folder / "EXECUTED"
    (folder / "hostile_task.py").write_text(HOSTILE.replace("CANARY", repr(str(canary))))
    sys.path.insert(0, str(folder))
    os.environ["SECRET_KEY"] = "secret"
    verifier_process.close()  # it has to know the folder; to start one takes seconds, so these tests are the last
    try:
        __import__("hostile_task")
        yield ProceduralTask("hostile", answer_in="text"), canary
    finally:
        sys.path.remove(str(folder))
        del os.environ["SECRET_KEY"]
        DATASETS.pop("hostile")
        verifier_process.close()


def test_a_verifier_has_no_rights(hostile: tuple[ProceduralTask, Path]) -> None:
    task, canary = hostile
    (problem,) = task.some_problems(1)
    for deed in (
        "open",
        "mkdir",
        "rename",
        "remove",
        "system",
        "fork",
        "run",
        "socket",
        "symlink",
        "eval",
        "exec",
        "ctypes",
        "os.open",
        "kill",
    ):
        verdict = task.verify(problem, deed)
        assert verdict.exact == 0
        assert "PermissionError" in verdict.failed, deed
        assert not canary.exists()
    assert task.verify(problem, "environment").partial == 0, "no secret is in its environment"
    assert task.verify(problem, "print").failed == "", "what it prints disturbs nobody"
    assert task.verify(problem, problem.answer).exact == 1


def test_every_answer_gets_a_verdict_within_two_seconds(hostile: tuple[ProceduralTask, Path]) -> None:
    task, _ = hostile
    (problem,) = task.some_problems(1)
    for deed in ("spin", "power"):
        began = time.monotonic()
        assert task.verify(problem, deed).failed == "time out"
        assert time.monotonic() - began < 2
        assert task.verify(problem, problem.answer).exact == 1, "the next answer is judged"
    said = {
        "memory": "MemoryError", "exit": "SystemExit", "recurse": "RecursionError", "die": "died", "nan": "gave nan",
        "inf": "gave inf", "text": "could not convert", "none": "TypeError",
    }  # fmt: skip
    for deed, word in said.items():
        verdict = task.verify(problem, deed)
        assert verdict.exact == verdict.partial == 0
        assert word in verdict.failed, (deed, verdict)
    assert (task.verify(problem, "two").exact, task.verify(problem, "two").partial) == (0, 1), "only 1 is right"
    assert task.verify(problem, "below").partial == 0
    assert task.verify(problem, problem.answer).exact == 1


@pytest.mark.parametrize(
    "reply", ['{"score": 1' + "0" * 400 + "}", "[" * 4000, "1.0", '{"score": true}', '{"score": NaN}']
)
def test_no_reply_is_believed_that_is_not_a_verdict(reply: str) -> None:
    score, failed = _read_reply(reply.encode())
    assert score == 0
    assert failed


def test_a_guarded_process_that_is_gone_is_started_again() -> None:
    task = ProceduralTask("prime_factorization")
    (problem,) = task.some_problems(1)
    assert task.score(problem, problem.answer) == (1.0, "")
    keeper = verifier_process._process
    assert keeper is not None
    keeper.kill()
    keeper.wait()
    assert task.score(problem, problem.answer) == (1.0, "")
    assert verifier_process._process is not keeper


def test_the_guarded_process_ends_with_the_one_that_started_it() -> None:
    """The parent ends without a word, as by SIGKILL, while an answer is being judged: nobody is left behind."""
    (problem,) = ProceduralTask("rubiks_cube").some_problems(1)
    task = ("rubiks_cube", {"seed": 0}, DATASETS["rubiks_cube"][0].__module__, dict(problem.entry))
    code = (
        "import os, pickle, sys, threading\n"
        "from rlhf.tasks.verifier_process import VerifiedTask, verifier_process\n"
        "name, parameters, module, entry = pickle.load(sys.stdin.buffer)\n"
        "verifier_process.start('rlhf.tasks.reasoning_gym')\n"
        "task = VerifiedTask(name, parameters, module=module, entry=entry, answer='')\n"
        "verifier_process.score(task, entry, 'R')\n"
        "print(verifier_process._process.pid, flush=True)\n"
        "threading.Timer(0.3, os._exit, [9]).start()\n"
        "verifier_process.score(task, entry, 'R99999999 F99999999')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(task), capture_output=True, check=False)
    assert done.returncode == 9, done.stderr.decode()
    session = done.stdout.decode().strip()
    for _ in range(100):
        left = subprocess.run(["ps", "-o", "pid=", "-s", session], capture_output=True, text=True, check=False)
        if not left.stdout.strip():
            return
        time.sleep(0.05)
    pytest.fail(f"still there: {left.stdout}")


def test_a_process_that_was_started_for_something_else_opens_a_task_of_reasoning_gym() -> None:
    """It imports it as we do, without what is not installed: own prompts and a task of reasoning-gym make a mixture."""
    task = ProceduralTask("prime_factorization")
    (problem,) = task.some_problems(1)
    process = VerifierProcess()
    module = DATASETS[task.name][0].__module__
    verified = VerifiedTask(task.name, {}, module=module, entry=problem.entry, answer=problem.answer)
    try:
        assert process.score(verified, problem.entry, problem.answer) == (1.0, "")
    finally:
        process.close()
