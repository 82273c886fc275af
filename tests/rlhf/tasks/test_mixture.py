"""Mixtures of tasks, and word problems from a file."""

import json
from pathlib import Path

import pytest

from reward_models.questions import load_questions
from rlhf.errors import UserError
from rlhf.tasks.mixture import OF_TASK, Mixture
from rlhf.tasks.problem import Problem, Verdict
from rlhf.tasks.registry import open_task
from rlhf.tasks.word_problems import WordProblems


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    rows = [
        {"question": f"What is {i} times 1000?", "answer": f"{i} * 1000 = {i},000\n#### {i},000"} for i in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_word_problems(file: Path) -> None:
    task = WordProblems({"path": str(file)}, answer_in="last_number")
    train = task.train_problems(seed=0, first=0, count=200)
    held_out = task.held_out_problems(5)
    assert not {p.question for p in train} & {p.question for p in held_out}
    size = len({p.question for p in train})
    assert [p.question for p in train[:size]] != [p.question for p in train[size : 2 * size]], "shuffled anew"
    assert {p.question for p in train[:size]} == {p.question for p in train[size : 2 * size]}
    assert task.train_problems(seed=0, first=7, count=2) == train[7:9]
    problem = next(p for p in train if p.answer == "7,000")
    assert task.verify(problem, "It is 6000, no: $7000.00").exact == 1
    assert task.verify(problem, "It is 7, 0").exact == 0
    assert task.verify(problem, "who knows").exact == 0


def test_word_problems_with_a_held_out_file(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "test.jsonl"
    other.write_text(file.read_text().splitlines()[0] + "\n" + json.dumps({"question": "1+1?", "answer": 2}) + "\n")
    task = WordProblems({"path": str(file), "held_out_path": str(other)}, answer_in="last_number")
    assert {p.question for p in task.held_out_problems(2)} == {"What is 0 times 1000?", "1+1?"}
    assert "What is 0 times 1000?" not in {p.question for p in task.train_problems(seed=0, first=0, count=100)}


ODD = [("path", 5), ("path", ["a"]), ("question", ["a"]), ("split", 7), ("held_out_path", 3), ("answer", None)]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({}, "needs a path"),
        ({"pth": "x"}, "did you mean 'path'"),
        ({"path": "none.jsonl"}, "no file"),
        *(({"path": "x.jsonl", key: value}, f"{key}: wanted text") for key, value in ODD),
    ],
)
def test_bad_word_problems(parameters: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        WordProblems(parameters, answer_in="last_number")


def test_questions_with_two_answers_are_left_out_or_refused(tmp_path: Path, capsys) -> None:
    """One of 40 is left out, with a word; two of 20 are more than 5 %. The same number written twice is one answer."""
    path = tmp_path / "two.jsonl"
    rows = [{"question": f"What is {i}+1?", "answer": str(i + 1)} for i in range(40)]
    same, other = {"question": rows[0]["question"], "answer": "1.0"}, {"question": rows[1]["question"], "answer": "7"}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, same, other]))
    task = WordProblems({"path": str(path)}, answer_in="last_number")
    assert (
        "1 of 40 questions have answers that contradict each other ('What is 1+1?': '2' and '7')"
        in capsys.readouterr().out
    )
    asked = {p.question for p in task.train_problems(seed=0, first=0, count=100)} | {
        p.question for p in task.held_out_problems(5)
    }
    assert "What is 0+1?" in {p.question for p in task._train + task._held_out}
    assert "What is 1+1?" not in asked
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows[:20], {**rows[2], "answer": "9"}, other]))
    with pytest.raises(UserError, match="2 of 20 questions have answers that contradict"):
        WordProblems({"path": str(path)}, answer_in="last_number")
    with pytest.raises(UserError, match="2 of 20 questions have answers that contradict"):
        load_questions(str(path), split="train", size=5)


def test_rows_without_a_number_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"question": "Why?", "answer": "because"}\n{"question": "How?"}\n')
    with pytest.raises(UserError, match=r"line 1: the answer 'because' is not a number.*column 'answer' is missing"):
        WordProblems({"path": str(path)}, answer_in="last_number")


def test_mixtures_keep_to_their_weights_and_judge_by_the_right_task() -> None:
    tasks = {name: open_task(name, {}, answer_in="think_tags") for name in ("spell_backward", "step_arithmetic")}
    mixture = Mixture(tasks, {"spell_backward": 3.0, "step_arithmetic": 1.0})
    problems = mixture.train_problems(seed=0, first=0, count=400)
    share = sum(p.entry[OF_TASK] == "spell_backward" for p in problems) / 400
    assert 0.68 < share < 0.82
    assert mixture.train_problems(seed=0, first=5, count=3) == problems[5:8]
    for problem in problems[:20]:
        assert mixture.verify(problem, f"<think></think><answer>{problem.answer}</answer>").exact == 1
        assert mixture.verify(problem, "<think></think><answer>-5</answer>").exact == 0
    assert len(mixture.held_out_problems(3)) == 6


class Counted:
    """A task whose problems say what they were asked for by."""

    def __init__(self, name: str):
        self.name, self.fingerprint = name, f"fingerprint of {name}"

    def train_problems(self, *, seed: int, first: int, count: int) -> list[Problem]:
        return [Problem(f"{self.name} {seed} {i}", f"{i}", {"own": i}) for i in range(first, first + count)]

    def held_out_problems(self, count: int) -> list[Problem]:
        return [Problem(f"{self.name} held out {i}", f"{i}", {}) for i in range(count)]

    def verify(self, problem: Problem, completion: str) -> Verdict:
        return Verdict(float(completion == f"{self.name} {problem.answer}"), 0.0, 0.0)


def test_a_mixture_asks_each_problem_by_its_number() -> None:
    """Problem i is some task's own number i, so none comes twice; which task's, depends on seed and i alone."""
    tasks = {name: Counted(name) for name in ("a", "b", "c")}
    mixture = Mixture(tasks, {"a": 1.0, "b": 1.0, "c": 2.0})
    problems = mixture.train_problems(seed=3, first=10, count=200)
    for number, problem in enumerate(problems, 10):
        assert problem.question == f"{problem.entry[OF_TASK]} 3 {number}"
        assert problem.entry["own"] == number, "what the task itself keeps stays"
        assert mixture.verify(problem, f"{problem.entry[OF_TASK]} {number}").exact == 1
        others = tasks.keys() - {problem.entry[OF_TASK]}
        assert all(mixture.verify(problem, f"{other} {number}").exact == 0 for other in others)
    one_by_one = [mixture.train_problems(seed=3, first=10 + i, count=1)[0] for i in range(200)]
    assert one_by_one == problems
    drawn = [it.entry[OF_TASK] for it in problems]
    assert [it.entry[OF_TASK] for it in mixture.train_problems(seed=4, first=10, count=200)] != drawn
    counts = [drawn.count(name) for name in ("a", "b", "c")]
    assert abs(counts[0] - 50) < 20
    assert abs(counts[1] - 50) < 20
    assert abs(counts[2] - 100) < 25


def test_a_mixture_holds_out_as_many_of_each() -> None:
    mixture = Mixture({name: Counted(name) for name in ("a", "b")}, {"a": 5.0, "b": 1.0})
    held_out = [(it.entry[OF_TASK], it.question) for it in mixture.held_out_problems(2)]
    assert held_out == [(name, f"{name} held out {i}") for name in ("a", "b") for i in range(2)]
    assert mixture.name == "a + b"


def test_a_mixtures_fingerprint_tells_tasks_and_weights() -> None:
    def fingerprint(names: str, *weights: float) -> str:
        return Mixture({n: Counted(n) for n in names}, dict(zip(names, weights, strict=True))).fingerprint

    found = [fingerprint("ab", 1, 1), fingerprint("ab", 1, 2), fingerprint("ac", 1, 1), fingerprint("ba", 1, 1)]
    assert len(set(found)) == 4
    assert fingerprint("ab", 1, 1) == found[0]


def test_a_task_is_opened_with_its_settings(file: Path) -> None:
    problem = open_task("spell_backward", {"min_word_len": 7, "max_word_len": 7}, answer_in="text")
    (asked,) = problem.train_problems(seed=0, first=0, count=1)
    assert len(asked.answer) == 7
    assert problem.verify(asked, asked.answer).exact == 1, "the whole completion is the answer"
    words = open_task("word_problems", {"path": str(file)}, answer_in="last_number")
    (asked,) = words.train_problems(seed=0, first=0, count=1)
    assert words.verify(asked, f"it is {asked.answer}").exact == 1
    tagged = open_task("word_problems", {"path": str(file)}, answer_in="answer_tag")
    assert tagged.verify(asked, f"it is {asked.answer}").exact == 0


@pytest.mark.parametrize("column", ["context", "image", "tools"])
def test_word_problems_that_lack_a_part_of_their_question_are_refused(tmp_path: Path, column: str) -> None:
    """What the table, the picture or the tool says is not in the question, so the answer could only be guessed."""
    rows = [{"question": f"How many are {i}?", "answer": f"#### {i}", column: "a table"} for i in range(20)]
    path = tmp_path / "with_context.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=f"{column} would be ignored"):
        WordProblems({"path": str(path)}, answer_in="last_number")
