"""Mixtures of tasks, and word problems from a file."""

import json
from pathlib import Path

import pytest

from rlhf.errors import UserError
from rlhf.mixture import OF_TASK, Mixture, open_task
from rlhf.word_problems import WordProblems, to_number


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    rows = [
        {"question": f"What is {i} times 1000?", "answer": f"{i} * 1000 = {i},000\n#### {i},000"} for i in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("text", "number"),
    [("1,000", 1000), ("$1000.00 ", 1000), ("-3", -3), ("0.5", 0.5), ("72.", 72), ("12%", 12), ("x", None), ("", None)],
)
def test_numbers_however_they_are_written(text: str, number: float | None) -> None:
    found = to_number(text)
    assert (found is None and number is None) or float(found) == number


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


@pytest.mark.parametrize(
    ("parameters", "said"),
    [({}, "needs a path"), ({"pth": "x"}, "did you mean 'path'"), ({"path": "none.jsonl"}, "no file")],
)
def test_bad_word_problems(parameters: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        WordProblems(parameters, answer_in="last_number")


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
