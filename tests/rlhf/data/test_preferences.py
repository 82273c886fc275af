"""Rows of many shapes to rankings; a policy's own answers to rankings."""

import pytest

from rlhf.cache import cached, fingerprint, key
from rlhf.candidates import Candidates, sample_candidates, to_rankings
from rlhf.data.preferences import Ranking, parse_labelled, parse_preference, split_by_question
from rlhf.errors import UserError
from rlhf.tasks.problem import Problem, Verdict
from rlhf.tasks.procedural import ProceduralTask
from rlhf.text.answers import Answer

USER = {"role": "user", "content": "2+2?"}
FOUR, FIVE = ({"role": "assistant", "content": c} for c in "45")
AGAIN = {"role": "user", "content": "Sure?"}


@pytest.mark.parametrize(
    ("row", "margin"),
    [
        ({"prompt": "2+2?", "chosen": "4", "rejected": "5"}, None),
        ({"prompt": [USER], "chosen": [FOUR], "rejected": [FIVE]}, None),
        ({"prompt": "2+2?", "chosen": [USER, FOUR], "rejected": [USER, FIVE]}, None),
        ({"chosen": [USER, FOUR], "rejected": [USER, FIVE]}, None),
        ({"chosen": "\n\nHuman: 2+2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2+2?\n\nAssistant: 5"}, None),
        ({"prompt": "\n\nHuman: 2+2?\n\nAssistant:", "chosen": " 4".strip(), "rejected": "5"}, None),
        ({"instruction": "2+2?", "chosen_response": "4", "rejected_response": "5"}, None),
        ({"prompt": "2+2?", "chosen": "4", "rejected": "5", "margin": 2}, 2.0),
        ({"prompt": "2+2?", "chosen": "4", "rejected": "5", "score_chosen": 9.0, "score_rejected": 8.5}, 0.5),
        ({"prompt": "2+2?", "chosen": "4", "rejected": "5", "chosen-rating": 5, "rejected-rating": 1}, 4.0),
        ({"prompt": "2+2?", "completions": ["4", "5"]}, None),
        ({"prompt": "2+2?", "completions": ["5", "4"], "scores": [1, 7]}, None),
        ({"question": "2+2?", "completions": [{"response": "5", "score": 1}, {"response": "4", "score": 2}]}, None),
        ({"prompt": "2+2?", "completions": ["5", "4", "6"], "scores": [1, 7, 1]}, None),
    ],
)  # fmt: skip
def test_shapes(row, margin):
    assert parse_preference(row) == Ranking([USER], [[FOUR], [FIVE]], margin)


def test_implicit_prompts_of_several_turns():
    """The prompt ends before an answer, wherever the sides part."""
    ranking = parse_preference({"chosen": [USER, FIVE, AGAIN, FOUR], "rejected": [USER, FIVE, AGAIN, FIVE]})
    assert ranking == Ranking([USER, FIVE, AGAIN], [[FOUR], [FIVE]], None)
    other = {"role": "user", "content": "Really?"}
    ranking = parse_preference({"chosen": [USER, FIVE, AGAIN, FOUR], "rejected": [USER, FIVE, other, FIVE]})
    assert ranking == Ranking([USER], [[FIVE, AGAIN, FOUR], [FIVE, other, FIVE]], None)
    assert ranking.question == "2+2?"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "wanted chosen and rejected"),
        ({"prompt": "q", "chosen": "4"}, "wanted chosen and rejected"),
        ({"prompt": "q", "chosen": "4", "rejected": "4 "}, "identical"),
        ({"prompt": "q", "chosen": " ", "rejected": "4"}, "chosen is empty"),
        ({"prompt": "q", "chosen": "4", "rejected": ""}, "rejected is empty"),
        ({"prompt": "", "chosen": "4", "rejected": "5"}, "prompt is empty"),
        ({"prompt": 7, "chosen": "4", "rejected": "5"}, "prompt: wanted text or a list"),
        ({"prompt": "q", "chosen": 4, "rejected": "5"}, "chosen: wanted text or a list"),
        ({"prompt": "q", "chosen": [{"role": "assistant"}], "rejected": "5"}, "role and content"),
        ({"prompt": "q", "chosen": [{"role": "assistant", "content": 4}], "rejected": "5"}, "role and content"),
        ({"prompt": "q", "chosen": [USER, FOUR], "rejected": "5"}, "not the prompt column's"),
        ({"prompt": [USER, FOUR], "chosen": "4", "rejected": "5"}, "ends with the assistant"),
        ({"chosen": "4", "rejected": "5"}, "no prompt column"),
        ({"chosen": [AGAIN, FOUR], "rejected": [USER, FIVE]}, "same prompt"),
        ({"chosen": [USER, FOUR], "rejected": [USER]}, "assistant|same prompt"),
        ({"prompt": "q", "chosen": "4", "rejected": "5", "margin": "big"}, "margin: wanted a number"),
        ({"prompt": "q", "chosen": "4", "rejected": "5", "margin": -1}, "would be the better"),
        (
            {"prompt": "q", "chosen": "4", "rejected": "5", "score_chosen": 1, "score_rejected": 2},
            "would be the better",
        ),
        ({"prompt": "q", "completions": ["4"]}, "two completions"),
        ({"prompt": "q", "completions": "45"}, "wanted a list"),
        ({"prompt": "q", "completions": ["4", "5"], "scores": [1]}, "list of 2 numbers"),
        ({"prompt": "q", "completions": ["4", "5"], "scores": [1, True]}, "wanted a number"),
        ({"prompt": "q", "completions": ["4", None]}, "completion 1"),
        ({"completions": ["4", "5"]}, "need a prompt"),
    ],
)
def test_odd_rows_are_refused_with_the_reason(row, reason):
    with pytest.raises(ValueError, match=reason):
        parse_preference(row)


def test_split_by_question():
    """Whole questions, the same ones in any order and for any number of the others; two names, two choices."""
    items = [(f"q{i % 40}", i) for i in range(120)]
    train, held = split_by_question(items, lambda item: item[0], held_out=20)
    assert len(held) == 18  # questions of three items each
    assert not {q for q, _ in train} & {q for q, _ in held}
    assert sorted(train + held) == sorted(items)
    _, again = split_by_question(items[::-1], lambda item: item[0], held_out=20)
    assert {q for q, _ in again} == {q for q, _ in held}
    _, other = split_by_question(items, lambda item: item[0], held_out=20, name="validation")
    assert {q for q, _ in other} != {q for q, _ in held}
    with pytest.raises(UserError, match="too few"):
        split_by_question(items[:1], lambda item: item[0], held_out=20)


def test_questions_that_differ_in_white_space_are_one():
    items = [f"what{space}is {i}?" for i in range(20) for space in (" ", "  ", "\n")]
    train, held = split_by_question(items, lambda item: item, held_out=6)
    assert len(held) == 6
    assert not {" ".join(item.split()) for item in train} & {" ".join(item.split()) for item in held}
    assert sorted(train + held) == sorted(items)


# ---------------------------------------------------------------------------------- columns that change the meaning


def test_system_and_history_come_in_front():
    system, said = {"role": "system", "content": "Speak French."}, {"role": "assistant", "content": "Oui."}
    row = {"system": "Speak French.", "question": "2+2?", "chosen": "4", "rejected": "5"}
    assert parse_preference(row) == Ranking([system, USER], [[FOUR], [FIVE]], None)
    row["history"] = [["Sure?", "Oui."]]
    assert parse_preference(row).prompt == [system, AGAIN, said, USER]
    for own in ([USER, FOUR], [system, AGAIN, said, USER, FOUR]):  # where a side repeats the prompt, with or without
        assert parse_preference({**row, "chosen": own}) == Ranking([system, AGAIN, said, USER], [[FOUR], [FIVE]], None)
    row = {"system": "Speak French.", "chosen": [USER, FOUR], "rejected": [USER, FIVE]}
    assert parse_preference(row).prompt == [system, USER]
    row = {"history": [AGAIN, said], "prompt": "2+2?", "completions": ["5", "4"], "scores": [0, 1]}
    assert parse_preference(row) == Ranking([AGAIN, said, USER], [[FOUR], [FIVE]], None)


def test_an_input_belongs_to_its_instruction():
    row = {"instruction": "Add.", "input": "2 and 2", "chosen": "4", "rejected": "5"}
    assert parse_preference(row).question == "Add.\n\n2 and 2"
    with pytest.raises(ValueError, match="input belongs to an instruction"):
        parse_preference({"prompt": "Add.", "input": "2 and 2", "chosen": "4", "rejected": "5"})


@pytest.mark.parametrize(
    "column",
    [
        *({"tools": [{"name": "f"}]}, {"label": 0}, {"labels": [1, 0]}, {"weight": 0.5}, {"images": ["x"]}),
        *({"rank": 1}, {"context": "a page"}, {"reasoning_content": "so"}, {"functions": "f"}),
    ],
)
def test_what_is_not_used_is_refused(column):
    (name,) = column
    with pytest.raises(ValueError, match=f"{name} would be ignored"):
        parse_preference({"prompt": "q", "chosen": "4", "rejected": "5", **column})
    message = {"role": "user", "content": "q", **column}
    if name != "reasoning_content":  # which the template shows of a message, or the row is refused there
        with pytest.raises(ValueError, match=f"{name} would be ignored"):
            parse_preference({"prompt": [message], "chosen": "4", "rejected": "5"})


def test_ranks_order_completions():
    """1 is the best. Beside the completions, or in each."""
    for row in (
        {"completions": ["5", "4"], "ranks": [2, 1]},
        {"completions": ["5", "4"], "rank": ["2", "1"]},
        {"completions": [{"text": "5", "rank": 2}, {"text": "4", "rank": 1}]},
    ):
        assert parse_preference({"prompt": "2+2?", **row}) == Ranking([USER], [[FOUR], [FIVE]], None)
    with pytest.raises(ValueError, match="is_correct would be ignored"):
        parse_preference(
            {"prompt": "q", "completions": [{"text": "a", "is_correct": 1}, {"text": "b", "is_correct": 0}]}
        )


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "q", "completions": ["a", "b"], "labels": [False, True]}, "no ranking.*train_orm.*train_prm"),
        ({"prompt": "q", "completions": ["a", "b"], "labels": [-1, 1]}, "no ranking.*train_orm.*train_prm"),
        ({"prompt": "q", "completion": "a", "label": True}, "--loss kto"),
        ({"messages": [USER, FOUR]}, "instruction_tuning"),
        ({"prompt": "q", "completion": "a"}, "instruction_tuning"),
        ({"question": "q", "answer": "4"}, "word_problems"),
    ],
)
def test_rows_of_another_kind_are_named(row, words):
    with pytest.raises(ValueError, match=words):
        parse_preference(row)


def test_numbers_of_a_table_are_text():
    row = {"prompt": "2+2?", "chosen": "4", "rejected": "5", "score_chosen": "9.5", "score_rejected": "9"}
    assert parse_preference(row).margin == 0.5
    assert parse_preference({**row, "score_chosen": None, "margin": "2"}).margin == 2


def test_labelled_answers():
    row = {"prompt": "2+2?", "completion": "4", "label": True}
    assert parse_labelled(row) == (Ranking([USER], [[FOUR]], None), True)
    assert parse_labelled({**row, "completion": [USER, FIVE], "label": "0"}) == (Ranking([USER], [[FIVE]], None), False)
    assert parse_labelled({**row, "system": "S"})[0].prompt == [{"role": "system", "content": "S"}, USER]
    for odd, words in (
        ({"label": 2}, "label: wanted true or false"),
        ({"label": None}, "label: wanted true or false"),
        ({"completion": " "}, "wanted prompt, completion and label"),
        ({"completion": None, "chosen": "4", "rejected": "5"}, "these look like pairs"),
        ({"weight": 3}, "weight would be ignored"),
    ):
        with pytest.raises(ValueError, match=words):
            parse_labelled({**row, **odd})


def test_answers_as_they_were_sampled():
    """In the order of the ranking, whatever the order of the row."""
    row = {"prompt": "2+2?", "completions": ["5", "4"], "scores": [0, 1], "ended": [True, False]}
    assert parse_preference(row).answers == (Answer("4", ended=False), Answer("5"))
    row |= {"tokens": [[5, 0], [4]], "vocabulary": "v"}
    assert parse_preference(row).answers == (Answer("4", (4,), False, "v"), Answer("5", (5, 0), True, "v"))
    pair = {"prompt": "2+2?", "chosen": "4", "rejected": "5", "ended": [False, True]}
    assert parse_preference(pair).answers == (Answer("4", ended=False), Answer("5"))
    assert parse_labelled({"prompt": "q", "completion": "4", "label": 1, "ended": False})[0].answers[0].ended is False
    for odd in ({"ended": [True]}, {"ended": [True, 3]}, {"ended": False}):
        with pytest.raises(ValueError, match="ended"):
            parse_preference({**pair, **odd})
    with pytest.raises(ValueError, match="ended: is of answers of one message"):
        parse_preference({**pair, "chosen": [FOUR, AGAIN, FIVE]})


# ------------------------------------------------------------------------------------------------ cache, candidates


def test_cache(tmp_path, monkeypatch):
    """Made once; a damaged entry is made again; another key is another entry; an unwritable folder costs time only."""
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path))
    made = []

    def make() -> dict:
        made.append(1)
        return {"texts": ["a", "b"], "n": 2}

    entry = key("model", {"n": 1})
    assert [cached("kind", entry, make) for _ in range(3)] == [{"texts": ["a", "b"], "n": 2}] * 3
    assert len(made) == 1
    (file,) = (tmp_path / "kind").iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    cached("kind", entry, make)
    file.write_bytes(b"")
    assert cached("kind", entry, make)["n"] == 2
    assert len(made) == 3
    assert cached("kind", entry, make) == make()
    cached("kind", key("model", {"n": 2}), make)
    assert len(made) == 5
    monkeypatch.setenv("RLHF_CACHE", str(file))  # a file where a folder should be
    assert cached("kind", entry, make)["n"] == 2


def test_fingerprint_follows_weights_and_template(tmp_path):
    import shutil

    from rlhf.models.policy import EMBEDDED

    folder = tmp_path / "m"
    shutil.copytree(EMBEDDED, folder)
    assert fingerprint(str(folder)) == fingerprint("embedded")
    for name in ("model.safetensors", "chat_template.jinja", "tokenizer.json", "config.json"):
        before, content = fingerprint(str(folder)), (folder / name).read_bytes()
        (folder / name).write_bytes(content + b"\n")
        assert fingerprint(str(folder)) != before, name


def test_candidates_are_sampled_once_and_verified(monkeypatch):
    task = ProceduralTask("step_arithmetic")
    problems = task.train_problems(seed=0, first=0, count=3)
    arguments = {"count": 4, "max_new_tokens": 96, "seed": 0}
    first = sample_candidates("embedded", task, problems, **arguments)
    monkeypatch.setattr("rlhf.candidates.sample", lambda *_, **__: pytest.fail("sampled again"))
    assert sample_candidates("embedded", task, problems, **arguments) == first
    for one in first:
        assert one.verdicts == [task.verify(one.problem, text) for text in one.texts]
    with pytest.raises(pytest.fail.Exception):
        sample_candidates("embedded", task, problems, **(arguments | {"seed": 1}))


def test_rankings_of_candidates():
    """Right before wrong, of the same problem; none where there is no contrast; the same for the same seed."""

    def candidates(question: str, texts: str, exact: str) -> Candidates:
        verdicts = [Verdict(float(e), 1.0, 0.0) for e in exact]
        return Candidates(Problem(question, "", {}), [Answer(text) for text in texts], verdicts)

    both = candidates("q", "aabcd", "11000")
    pairs = [
        (r.completions[0][0]["content"], r.completions[1][0]["content"])
        for r in to_rankings([both], seed=0, per_problem=9)
    ]
    assert sorted(pairs) == [("a", "b"), ("a", "c"), ("a", "d")]
    assert to_rankings([candidates("q", "ab", "11"), candidates("r", "ab", "00")], seed=0) == []
    assert to_rankings([both], seed=3) == to_rankings([candidates("x", "ab", "10"), both], seed=3)[1:]
