"""Tasks: what is held out, what repeats, and what counts as right."""

import importlib
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from rlhf.errors import UserError
from rlhf.tasks import names, procedural
from rlhf.tasks.extraction import extract_answer
from rlhf.tasks.names import refuse_unknown_task, task_names
from rlhf.tasks.problem import Verdict, is_held_out
from rlhf.tasks.procedural import ProceduralTask
from rlhf.tasks.prompts import NAME as PROMPTS
from rlhf.tasks.reasoning_gym import DATASETS, StandIn, standing_in
from rlhf.tasks.registry import WORD_PROBLEMS
from rlhf.tasks.step_arithmetic import solve


@pytest.fixture(scope="module")
def spelling() -> ProceduralTask:
    return ProceduralTask("spell_backward", {"min_word_len": 3, "max_word_len": 10})


@pytest.fixture(scope="module")
def arithmetic() -> ProceduralTask:
    return ProceduralTask("step_arithmetic", {"min_terms": 3, "max_terms": 4})


# ------------------------------------------------------------------------------------------------------------ splits


@pytest.mark.parametrize("name", ["spelling", "arithmetic"])
def test_training_never_meets_the_held_out_set(name: str, request: pytest.FixtureRequest) -> None:
    task = request.getfixturevalue(name)
    held_out = {problem.question for problem in task.held_out_problems(300)}
    assert len(held_out) == 300, "different ones"
    assert all(map(is_held_out, held_out))
    for seed in range(4):
        questions = {problem.question for problem in task.train_problems(seed=seed, first=0, count=300)}
        assert not any(map(is_held_out, questions))
        assert not questions & held_out


def test_a_fifth_is_held_out() -> None:
    """Of 5000 questions, 1000 +- 28 (one standard deviation)."""
    assert sum(is_held_out(f"question {i}") for i in range(5000)) == pytest.approx(1000, abs=110)


def test_streams(spelling: ProceduralTask) -> None:
    """A stream is a function of seed and number: parts of it, asked for in any order, by any task object."""
    whole = [p.question for p in spelling.train_problems(seed=1, first=0, count=40)]
    again = ProceduralTask("spell_backward", {"min_word_len": 3, "max_word_len": 10})
    parts = [p.question for first in (30, 20, 10, 0) for p in again.train_problems(seed=1, first=first, count=10)]
    assert parts[30:] + parts[20:30] + parts[10:20] + parts[:10] == whole
    assert len(set(whole)) > 35
    other = [p.question for p in spelling.train_problems(seed=2, first=0, count=40)]
    assert len(set(whole) & set(other)) < 5
    assert spelling.held_out_problems(50) == again.held_out_problems(50)
    assert spelling.held_out_problems(50) == spelling.held_out_problems(80)[:50]


def test_streams_of_different_seeds_do_not_overlap(spelling: ProceduralTask) -> None:
    """A seed that is another one's stream, some problems later, is no second seed."""
    streams = [[p.question for p in spelling.train_problems(seed=s, first=0, count=150)] for s in range(17)]
    words = [set(stream) for stream in streams]
    assert max(len(words[i] & words[j]) for i in range(17) for j in range(i)) < 10


def test_fingerprint(spelling: ProceduralTask, arithmetic: ProceduralTask) -> None:
    assert spelling.fingerprint == ProceduralTask("spell_backward", {"max_word_len": 10, "min_word_len": 3}).fingerprint
    assert spelling.fingerprint != ProceduralTask("spell_backward", {"min_word_len": 3, "max_word_len": 9}).fingerprint
    assert spelling.fingerprint != arithmetic.fingerprint


# ---------------------------------------------------------------------------------------------------------- verdicts


def completion(answer: str) -> str:
    return f"<think>so</think><answer>{answer}</answer>"


def test_verdicts_by_hand(spelling: ProceduralTask) -> None:
    """reasoning-gym gives 1/len for each letter in its place: partial credit, never success."""
    problem = next(p for p in spelling.train_problems(seed=0, first=0, count=50) if len(p.answer) == 8)
    right = problem.answer
    wrong = right[:-1] + ("x" if right[-1] != "x" else "y")
    assert spelling.verify(problem, completion(right)) == Verdict(1.0, 1.0, 1.0)
    assert spelling.verify(problem, completion(wrong)) == Verdict(0.0, 1.0, 7 / 8)
    assert spelling.verify(problem, right) == Verdict(0.0, 0.0, 0.0)
    assert spelling.verify(problem, f"<answer>{right}</answer>") == Verdict(1.0, 0.0, 1.0), "right, but not in the form"
    assert spelling.verify(problem, "") == Verdict(0.0, 0.0, 0.0)
    assert spelling.verify(problem, completion("")).exact == 0


def test_no_partial_credit_adds_up_to_success(spelling: ProceduralTask) -> None:
    """9 * (1/9) is above 1 in floating point: a right answer and a letter too many once passed for right."""
    problems = spelling.train_problems(seed=0, first=0, count=120)
    assert {len(p.answer) for p in problems} == set(range(3, 11))
    for problem in problems:
        for wrong in (problem.answer + "a", problem.answer + problem.answer, "a" + problem.answer, problem.answer[:-1]):
            verdict = spelling.verify(problem, completion(wrong))
            assert verdict.exact == 0, wrong
            assert 0 <= verdict.partial <= 1


@pytest.mark.parametrize("name", ["spelling", "arithmetic"])
def test_the_tasks_own_answers_are_right(name: str, request: pytest.FixtureRequest) -> None:
    task = request.getfixturevalue(name)
    for problem in task.held_out_problems(50):
        assert task.verify(problem, completion(problem.answer)) == Verdict(1.0, 1.0, 1.0)
        assert task.verify(problem, completion(f" {problem.answer}\n")).exact == 1
        assert task.verify(problem, completion("no")).exact == 0


@pytest.mark.parametrize(
    ("text", "think_tags", "answer_tag"),
    [
        ("<think>a</think><answer>b</answer>", ("b", True), ("b", True)),
        (" <think>a\n</think>\n<answer> b\n</answer>\n", ("b", True), ("b", True)),
        ("<answer>b</answer>", ("b", False), ("b", True)),
        ("<think>a</think> so <answer>b</answer>", ("b", False), ("b", True)),
        ("<think>a</think><answer>b</answer>.", ("b", False), ("b", True)),
        # The last of two answers, and neither form: otherwise a policy could bet on both.
        ("<think>a</think><answer>b</answer><answer>c</answer>", ("c", False), ("c", False)),
        ("<think><answer>b</answer></think><answer>c</answer>", ("c", False), ("c", False)),
        ("<think>a</think><answer>b", (None, False), (None, False)),
        ("<think>a</think>b", (None, False), (None, False)),
        ("<think>a</think><answer></answer>", ("", True), ("", True)),
        ("", (None, False), (None, False)),
    ],
)
def test_extraction(text: str, think_tags, answer_tag) -> None:
    assert extract_answer(text, "think_tags") == think_tags
    assert extract_answer(text, "answer_tag") == answer_tag
    assert extract_answer(text, "text") == (text.strip() or None, bool(text))


def test_extraction_is_what_the_patterns_say() -> None:
    """The obvious patterns take time quadratic in the length; of short texts, they give the same."""
    rng = Random(0)
    pieces = ["<think>", "</think>", "<answer>", "</answer>", "a", " ", "\n"]
    form = re.compile(r"\s*<think>.*?</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)
    tidy = 0
    for _ in range(5000):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 9)))
        found = re.findall("<answer>(.*?)</answer>", text, re.DOTALL)
        answer = found[-1].strip() if found else None
        well_formed = len(found) == 1 and form.fullmatch(text) is not None
        tidy += well_formed
        assert extract_answer(text, "answer_tag") == (answer, len(found) == 1)
        assert extract_answer(text, "think_tags") == (answer, well_formed), text
    assert tidy > 5


@pytest.mark.parametrize("answer_in", ["think_tags", "answer_tag", "last_number", "text"])
@pytest.mark.parametrize(
    "text",
    [
        "<answer>" * 20_000,
        "<answer>" * 20_000 + "5" + "</answer>" * 20_000,
        "<think>" + "</think><answer>" * 20_000 + "5</answer>x",
        "<think></think>" + " " * 1_000_000 + "x",
        *("5 " + "." * 40_000 + "x", "5 " + ")" * 40_000 + "x"),
        *("½" * 1_000_000, "5\n" * 500_000, "1 / " * 250_000, "\\frac{1" * 140_000, "9" * 1_000_000),
    ],
    ids=lambda text: text[:12].encode("unicode_escape").decode(),
)
def test_an_answer_is_extracted_in_time_whatever_was_written(text: str, answer_in: str) -> None:
    began = time.process_time()
    extract_answer(text, answer_in)
    assert time.process_time() - began < 2


# -------------------------------------------------------------------------------------------------------- arithmetic


def test_solutions_against_pythons_own_arithmetic(arithmetic: ProceduralTask) -> None:
    """Every equation is true, every rest is worth what the whole is, no result is negative, and the answer is right."""
    expressions = [p.entry["metadata"]["expression"] for p in arithmetic.train_problems(seed=0, first=0, count=500)]
    products = sum("*" in expression for expression in expressions)
    assert 200 < products < 400
    for problem in arithmetic.held_out_problems(20):
        assert problem.question == f"Calculate step by step: {problem.entry['metadata']['expression']}"
        assert problem.answer == str(eval(problem.entry["metadata"]["expression"]))
    for expression in expressions:
        assert re.fullmatch(r"\d([-+*]\d){2,3}", expression)
        lines = solve(expression)
        for line in lines:
            left, _, right = line.partition("=")
            assert eval(left) == (int(right) if right else eval(expression))
            assert eval(left) >= 0
        assert int(lines[-1].split("=")[1]) == eval(expression)
        assert len(lines) == 2 * len(re.findall(r"[-+*]", expression)) - 1


def test_solutions_by_hand() -> None:
    """A mistake of +2 in the first step of 7+2*4-3: 2*4=10, and 7+10-3 = 14."""
    assert solve("7+2*4-3") == ["2*4=8", "7+8-3", "7+8=15", "15-3", "15-3=12"]
    assert solve("7+2*4-3", wrong_step=0, error=2) == ["2*4=10", "7+10-3", "7+10=17", "17-3", "17-3=14"]
    assert solve("7+2*4-3", wrong_step=2, error=-1)[-1] == "15-3=11"
    assert solve("9-8-3") is None
    assert solve("9-8-1", wrong_step=0, error=-1) is None


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("spel_backward", {}, "did you mean 'spell_backward'"),
        ("spell_backward", {"max_word_length": 5}, "does not take"),
        ("spell_backward", {"min_word_len": 9, "max_word_len": 3}, "does not take"),
        ("step_arithmetic", {"min_terms": 1}, "does not take"),
        ("step_arithmetic", {"min_terms": "many"}, "does not take"),
    ],
)
def test_nonsense_is_refused(name: str, parameters: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        ProceduralTask(name, parameters)


def test_a_problem_that_a_task_cannot_make_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """As codeio fails at an answer that JSON cannot write: the next draws take its place. If all fail, the error says
    how."""
    task = ProceduralTask("spell_backward", answer_in="text")
    dataset = DATASETS["spell_backward"][0]
    make = dataset.__getitem__
    wanted = task.train_problems(seed=0, first=0, count=3)

    def fails_at(refused: Callable[[int], bool]) -> None:
        def get(self: Any, index: int) -> dict[str, Any]:
            if refused(index):
                raise TypeError("Object of type int64 is not JSON serializable")
            return make(self, index)

        monkeypatch.setattr(dataset, "__getitem__", get)

    fails_at(lambda index: index == 64)
    made = task.train_problems(seed=0, first=0, count=3)
    assert [made[0], made[2]] == [wanted[0], wanted[2]]
    assert made[1] != wanted[1]
    fails_at(lambda index: True)
    for ask in (
        lambda: task.train_problems(seed=0, first=0, count=1),
        lambda: ProceduralTask("spell_backward", {"max_word_len": 9}),
    ):
        with pytest.raises(UserError, match=r"cannot make problem .*TypeError: Object of type int64"):
            ask()


def test_programs_that_make_problems_leave_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As codeio's do: some write files into the current folder, and those that fail are printed."""
    dataset = DATASETS["spell_backward"][0]
    make = dataset.__getitem__

    def get(self: Any, index: int) -> dict[str, Any]:
        Path("simulation.txt").write_text("data")
        print("Error executing code")
        return make(self, index)

    monkeypatch.setattr(dataset, "__getitem__", get)
    monkeypatch.setattr(procedural, "RUN_CODE", {"spell_backward"})
    monkeypatch.chdir(tmp_path)
    task = ProceduralTask("spell_backward", answer_in="text")
    assert task.train_problems(seed=0, first=0, count=2)
    assert task.held_out_problems(2)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""
    assert Path.cwd() == tmp_path


def test_a_task_too_small_to_hold_problems_out() -> None:
    """Two terms of 1-9: there are some 140 expressions, a fifth of them held out."""
    with pytest.raises(UserError, match="different held-out problems"):
        ProceduralTask("step_arithmetic", {"min_terms": 2, "max_terms": 2}).held_out_problems(60)


def test_random_seeds_do_not_leak(spelling: ProceduralTask) -> None:
    """Problems are a function of their number alone, not of the global generators."""
    import random

    random.seed(0)
    before = [p.question for p in spelling.train_problems(seed=5, first=0, count=5)]
    random.seed(1)
    Random(3).random()
    assert [p.question for p in spelling.train_problems(seed=5, first=0, count=5)] == before


# ------------------------------------------------------------------------------------------------------------- names


def test_names_are_known_without_importing_reasoning_gym() -> None:
    assert set(task_names()) == {*DATASETS, PROMPTS, WORD_PROBLEMS}


def test_a_task_that_a_program_registers_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="'spell_backwards': did you mean 'spell_backward'"):
        refuse_unknown_task("spell_backwards", {}, key="data.task")
    monkeypatch.setitem(DATASETS, "spell_backwards", DATASETS["spell_backward"])
    refuse_unknown_task("spell_backwards", {})


def test_a_task_that_cannot_be_had_here_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "UNAVAILABLE", {"zebra_puzzles": "needs pycosat"})
    for open_it in (refuse_unknown_task, ProceduralTask):
        with pytest.raises(UserError, match="task: 'zebra_puzzles' needs pycosat"):
            open_it("zebra_puzzles", {})


def test_nothing_stands_in_for_a_module_once_reasoning_gym_is_imported() -> None:
    """While it is, a module that is there already stays itself."""
    assert not [name for name, module in sys.modules.items() if isinstance(module, StandIn)]
    with standing_in(["re", "no_such_package", "no_such_package.part"]):
        assert sys.modules["re"] is re
        assert importlib.import_module("no_such_package.part").anything is None
    assert "no_such_package" not in sys.modules
