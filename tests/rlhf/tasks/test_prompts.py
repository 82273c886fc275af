"""Prompts of a file as a task: word problems, answers of other kinds, and none."""

import json
from pathlib import Path

import pytest

from rlhf.errors import UserError
from rlhf.tasks.prompts import Prompts
from rlhf.tasks.registry import open_task


def word_problems(parameters: dict, *, answer_in: str = "last_number") -> Prompts:
    task = open_task("word_problems", parameters, answer_in=answer_in)
    assert isinstance(task, Prompts)
    return task


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    rows = [
        {"question": f"What is {i} times 1000?", "answer": f"{i} * 1000 = {i},000\n#### {i},000"} for i in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_word_problems(file: Path) -> None:
    task = word_problems({"path": str(file)})
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
    task = word_problems({"path": str(file), "eval_path": str(other)})
    assert {p.question for p in task.held_out_problems(2)} == {"What is 0 times 1000?", "1+1?"}
    assert "What is 0 times 1000?" not in {p.question for p in task.train_problems(seed=0, first=0, count=100)}


ODD = [("path", 5), ("path", ["a"]), ("prompt", ["a"]), ("split", 7), ("eval_path", 3), ("answer", 5)]


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
        word_problems(parameters)


def test_questions_with_two_answers_are_left_out_or_refused(tmp_path: Path, capsys) -> None:
    """One of 40 is left out, with a word; two of 20 are more than 5 %. The same number written twice is one answer."""
    path = tmp_path / "two.jsonl"
    rows = [{"question": f"What is {i}+1?", "answer": str(i + 1)} for i in range(40)]
    same, other = {"question": rows[0]["question"], "answer": "1.0"}, {"question": rows[1]["question"], "answer": "7"}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, same, other]))
    task = word_problems({"path": str(path)})
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
        word_problems({"path": str(path)})


def test_rows_without_a_number_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"question": "Why?", "answer": "because"}\n{"question": "How?"}\n')
    with pytest.raises(UserError, match=r"line 1: the answer 'because' is not a number.*column 'answer' or"):
        word_problems({"path": str(path)})


def test_a_task_is_opened_with_its_settings(file: Path) -> None:
    problem = open_task("spell_backward", {"min_word_len": 7, "max_word_len": 7}, answer_in="text")
    (asked,) = problem.train_problems(seed=0, first=0, count=1)
    assert len(asked.answer) == 7
    assert problem.verify(asked, asked.answer).exact == 1, "the whole completion is the answer"
    words = word_problems({"path": str(file)})
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
        word_problems({"path": str(path)})
