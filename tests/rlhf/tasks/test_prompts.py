"""Prompts of a file as a task: word problems, answers of other kinds, and none."""

import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf.errors import UserError
from rlhf.tasks.problem import messages_for, refuse_unverified
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


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def prompts(path: str, **parameters: object) -> Prompts:
    task = open_task("prompts", {"path": path, **parameters}, answer_in="text")
    assert isinstance(task, Prompts)
    return task


def questions(task: Prompts) -> tuple[set[str], set[str]]:
    return {p.question for p in task._train}, {p.question for p in task._held_out}


def test_prompts_without_answers_have_no_verdict(tmp_path: Path) -> None:
    rows = [{"prompt": f"Say {i}.", "topic": i, "id": None} for i in range(40)]
    task = prompts(write(tmp_path / "p.jsonl", rows))
    assert not task.verifies
    (problem,) = task.train_problems(seed=0, first=0, count=1)
    assert task.verify(problem, "anything") is None
    assert problem.columns == {"topic": int(problem.question[4:-1]), "id": None, "answer": ""}
    assert problem.prompt == ()
    assert problem.where.endswith(f"p.jsonl line {problem.columns['topic'] + 1}")
    with pytest.raises(UserError, match="prompts has no reference answers to tell right from wrong, and pairing needs"):
        refuse_unverified(task, "pairing")
    assert task.held_out_problems(500) == task.held_out_problems(len(task._held_out)), "as many as there are"


def test_how_answers_are_compared_has_to_be_said(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [{"prompt": f"{i}?", "answer": "a"} for i in range(9)])
    with pytest.raises(
        UserError, match=r"match: the rows have answers \(answer\), and how they are compared"
    ) as caught:
        prompts(path)
    assert "number, text or math" in str(caught.value.hint)
    assert not prompts(path, match="none").verifies
    with pytest.raises(UserError, match="match: there is no 'maths': did you mean 'math'"):
        prompts(path, match="maths")
    with pytest.raises(UserError, match="prompts has no 'subset': a subset stands behind the path"):
        prompts(path, subset="main")
    for share in (0, 1, "a", True):
        with pytest.raises(UserError, match="eval_share: wanted a number between 0 and 1"):
            prompts(path, match="none", eval_share=share)


@pytest.mark.parametrize(
    ("match", "answer", "right", "wrong"),
    [
        ("text", " New  York", "new york", "york"),
        ("number", "x = 3 #### 1,000", "$1000.00", "1"),
        ("math", "\\frac{1}{2}", "so \\boxed{0.5}", "\\boxed{2}"),
        ("math", "x^2 + 2x", "$x(x+2)$", "$x(x+3)$"),
        ("math", "\\frac{12}{13}", "\\frac{12}{13}", "\\frac{12}{14}"),
        ("math", "x^2 + 2x", "2x + x^2", "2x"),
        ("math", "5", "The answer is 5.", "The answer is 6, not 5 + 1."),
        ("math", "\\{1, 2\\}", "$\\{2, 1\\}$", "$\\{2\\}$"),
    ],
)
def test_answers_are_compared(tmp_path: Path, match: str, answer: str, right: str, wrong: str) -> None:
    path = write(tmp_path / "p.jsonl", [{"prompt": f"{i}?", "answer": answer} for i in range(9)])
    task = prompts(path, match=match)
    (problem,) = task.held_out_problems(1)
    for said, exact in ((right, 1.0), (wrong, 0.0), ("", 0.0), ("nothing", 0.0)):
        verdict = task.verify(problem, said)
        assert verdict is not None
        assert verdict.exact == exact, said


@pytest.mark.parametrize(
    ("match", "said", "other"),
    [("number", "It costs $1,000.00", "1000"), ("text", " New  York", "new york"), ("math", "\\frac12 ", "\\frac12")],
)
def test_answers_that_say_the_same_vote_for_the_same(tmp_path: Path, match: str, said: str, other: str) -> None:
    task = prompts(write(tmp_path / "p.jsonl", [{"prompt": f"{i}?", "answer": 1000} for i in range(9)]), match=match)
    (problem,) = task.held_out_problems(1)
    votes = [task.verify(problem, text).answer for text in (said, other, "something else", "")]
    assert votes[0] == votes[1] == other
    assert votes[2:] == ["something else", None]


@pytest.mark.parametrize(
    "odd", ["\\boxed{" * 3000, "__import__('os').system('touch {file}')", "$9^{9^{9^9}}$", "\ud83d", "1/0", "[" * 9000]
)
def test_mathematics_of_a_model_runs_nothing_and_ends(tmp_path: Path, odd: str) -> None:
    """An answer at which the verifier fails is wrong, and says so, within two seconds of its processor's time."""
    path = write(tmp_path / "p.jsonl", [{"prompt": f"{i}?", "answer": "2"} for i in range(5)])
    task, file = prompts(path, match="math"), tmp_path / "touched"
    (problem,) = task.held_out_problems(1)
    began = time.monotonic()
    verdict = task.verify(problem, odd.replace("{file}", str(file)))
    assert verdict is not None
    assert verdict.exact == 0
    assert not file.exists()
    assert time.monotonic() - began < 4, "1.5 s, on a machine that is busy"


def test_references_that_nobody_can_compute_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [{"prompt": f"{i}?", "answer": "9^{9^{9^9}}"} for i in range(3)])
    with pytest.raises(UserError, match=r"match: math calls the reference itself wrong: .*p.jsonl line"):
        prompts(path, match="math")


def test_a_prompt_may_be_messages(tmp_path: Path) -> None:
    """The whole conversation is what is asked, and what is on one side of the split; `system` comes in front."""
    asked = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    rows = [{"messages": [*asked, {"role": "user", "content": f"{i}?"}]} for i in range(20)]
    rows += [{"question": f"{i}?", "system": "Be brief."} for i in range(20)]
    task = prompts(write(tmp_path / "p.jsonl", rows))
    found = {p.question: p for p in [*task._train, *task._held_out]}
    talk = found["user: Hi.\n\nassistant: Hello.\n\nuser: 3?"]
    assert messages_for(talk, None) == rows[3]["messages"]
    assert messages_for(talk, "S")[0] == {"role": "system", "content": "S"}
    brief = found["system: Be brief.\n\nuser: 3?"]
    assert messages_for(brief, "S") == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "3?"}]


def test_verls_parquet_is_read(tmp_path: Path) -> None:
    rows = [
        {
            "data_source": "math",
            "prompt": [{"role": "user", "content": f"Half of {i}?"}],
            "reward_model": {"style": "rule", "ground_truth": f"{i}/2"},
            "extra_info": {"index": i},
        }
        for i in range(20)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    task = prompts(str(tmp_path), match="number")
    (problem,) = task.train_problems(seed=0, first=0, count=1)
    assert problem.answer == problem.columns["reward_model"]["ground_truth"]
    assert problem.columns["data_source"] == "math"
    verdict = task.verify(problem, problem.answer)
    assert verdict is not None
    assert verdict.exact == 1


def test_other_columns_are_named(tmp_path: Path) -> None:
    rows = [{"q": f"{i}?", "meta": {"gold": str(i)}, "answer": "?"} for i in range(9)]
    task = prompts(write(tmp_path / "p.jsonl", rows), prompt="q", answer="meta.gold", match="number")
    assert {(p.question, p.answer) for p in task._held_out} < {(f"{i}?", str(i)) for i in range(9)}
    with pytest.raises(UserError, match=r"column 'gold' is missing.*there are \['answer', 'meta', 'q'\]"):
        prompts(str(tmp_path / "p.jsonl"), prompt="q", answer="gold", match="number")


def test_no_prompt_is_on_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Equal prompts are counted: a row twice is one, one prompt with other columns stays on its side."""
    rows = [{"prompt": f"{i % 10}?", "kind": i // 10 % 2} for i in range(40)]
    task = prompts(write(tmp_path / "p.jsonl", rows))
    train, held_out = questions(task)
    assert not train & held_out
    assert len(train | held_out) == 10
    assert len(task._train) + len(task._held_out) == 20
    assert "40 rows have 10 different prompts; 20 that repeat a row are left out" in capsys.readouterr().out
    other = write(tmp_path / "eval.jsonl", [{"prompt": f"{i}?"} for i in range(8, 12)])
    task = prompts(str(tmp_path / "p.jsonl"), eval_path=other)
    assert questions(task) == ({f"{i}?" for i in range(8)}, {f"{i}?" for i in range(8, 12)})
    assert "4 of 20 prompts are held out too: not trained on" in capsys.readouterr().out


def test_which_prompts_are_held_out_depends_on_them_alone(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}?"} for i in range(100)]
    first = questions(prompts(write(tmp_path / "a.jsonl", rows), eval_share=0.1))
    other = questions(prompts(write(tmp_path / "b.jsonl", rows[::-1]), eval_share=0.1))
    assert first == other
    assert 4 <= len(first[1]) <= 17
    larger = questions(prompts(str(tmp_path / "a.jsonl"), eval_share=0.5))[1]
    assert first[1] < larger
    two = questions(prompts(write(tmp_path / "two.jsonl", rows[:2])))
    assert (len(two[0]), len(two[1])) == (1, 1), "of few prompts one at least"
    with pytest.raises(UserError, match="too few prompts: 1 to train on, 0 held out"):
        prompts(write(tmp_path / "one.jsonl", rows[:1]))


def test_a_split_of_the_same_folder_is_held_out(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{"prompt": f"{i}?"} for i in range(9)])
    write(tmp_path / "test.jsonl", [{"prompt": f"{i}!"} for i in range(3)])
    task = prompts(str(tmp_path), eval_split="test")
    assert questions(task) == ({f"{i}?" for i in range(9)}, {f"{i}!" for i in range(3)})
    assert len(questions(prompts(str(tmp_path), split="train[:5]", eval_split="test"))[0]) == 5


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"topic": "x"}, "column 'prompt' is missing or empty"),
        ({"prompt": " "}, "column 'prompt' is missing or empty"),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
            "ends with the assistant",
        ),
        ({"prompt": "q", "images": ["x.png"]}, "images would be ignored"),
    ],
)
def test_rows_that_are_no_prompts_are_counted(tmp_path: Path, row: dict, said: str) -> None:
    with pytest.raises(UserError, match=f"line 1: .*{said}"):
        prompts(write(tmp_path / "p.jsonl", [row] * 3))
