"""A column that changes what a row means is used or refused."""

import math
from typing import Any

import pytest

from rlhf.data.columns import (
    MEANING,
    cell_number,
    cell_truth,
    kind_of,
    refuse_ambiguous,
    refuse_unused,
    refuse_written_out,
    short,
)
from rlhf.errors import UserError


@pytest.mark.parametrize("name", MEANING)
def test_a_column_that_is_not_used_refuses_the_row(name: str) -> None:
    row = {"prompt": "p", name: ["x"]}
    with pytest.raises(ValueError, match=rf"^{name} would be ignored, .* \({name} \['x'\]\)"):
        refuse_unused(row, used=("prompt",))
    refuse_unused(row, used=("prompt", name))


@pytest.mark.parametrize("value", [None, "", "  ", [], {}, math.nan])
def test_an_empty_column_says_nothing(value: Any) -> None:
    refuse_unused({"prompt": "p", "system": value, "tools": value}, used=())


def test_false_and_zero_are_values() -> None:
    for value in (False, 0):
        with pytest.raises(ValueError, match="label"):
            refuse_unused({"label": value}, used=())


def test_a_weight_of_one_and_an_answer_that_ended_change_nothing() -> None:
    refuse_unused({"weight": 1.0, "ended": True}, used=())
    refuse_unused({"weights": ["1", 1], "ended": [True, True]}, used=())
    for row in ({"weight": 0}, {"weight": "0.5"}, {"ended": False}, {"ended": [True, False]}):
        with pytest.raises(ValueError, match="would be ignored"):
            refuse_unused(row, used=())


def test_other_columns_are_of_no_interest() -> None:
    refuse_unused({"id": 3, "source": "x", "score": 0.5, "prompt_id": "y"}, used=())


def test_numbers_and_truth_may_be_text() -> None:
    """As the cells of a .csv are."""
    assert [cell_number(value, "n") for value in (1, 0.5, " -2.5 ", "1e3", ".5")] == [1, 0.5, -2.5, 1000, 0.5]
    for value in (True, None, "", "1,000", "nan", "inf", math.nan, math.inf, "0x1", "1_0", [1], 10**400, "1e400"):
        with pytest.raises(ValueError, match="n: wanted a number"):
            cell_number(value, "n")
    assert [cell_truth(value, "t") for value in (True, 1, 1.0, "TRUE", " 1 ", "+1", "Good", "yes", "+")] == [True] * 9
    assert [cell_truth(value, "t") for value in (False, 0, 0.0, "False", "0", -1, "-1", "bad", "-")] == [False] * 9
    for value in (None, 2, -2, "maybe", "", [], 0.5, "A", "neutral"):
        with pytest.raises(ValueError, match="t: wanted true or false"):
            cell_truth(value, "t")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (("prompt", "chosen", "rejected"), "train_preference_rm"),
        (("question", "completions", "labels"), "train_orm reads one, train_prm the other"),
        (("prompt", "completion", "label"), "--loss kto"),
        (("prompt", "completion"), "instruction_tuning"),
        (("messages",), "instruction_tuning"),
        (("question", "answer"), "word_problems"),
        (("messages", "label"), "--loss kto"),
        (("conversations",), "instruction_tuning"),
        (("input", "label", "task"), "train_prm"),
        (("prompt", "reward_model", "data_source"), "the task prompts"),
    ],
)
def test_a_row_of_another_kind_is_named(columns: tuple[str, ...], words: str) -> None:
    assert words in kind_of(dict.fromkeys(columns, "x"))
    assert kind_of(dict.fromkeys(columns)) == kind_of({"id": "x"}) == ""


@pytest.mark.parametrize(
    "text",
    [
        '[{"role": "user", "content": "a"}]',
        "[{'content': 'a', 'role': 'assistant'}]",
        ' [ {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]',
    ],
)
def test_a_list_of_messages_that_was_written_out_is_no_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"q: .* written out as text"):
        refuse_written_out(text, "q")


@pytest.mark.parametrize("text", ['[{"from": "A", "to": "B"}]', '{"role": "user"}', 'x [{"role": "user"}]', "[1]", ""])
def test_other_text_in_brackets_is_text(text: str) -> None:
    refuse_written_out(text, "q")


def test_a_value_that_cannot_be_shown_is_called_by_its_type() -> None:
    class Silent:
        def __repr__(self) -> str:
            raise KeyError("x")

    assert short(Silent()) == "<Silent>"
    assert len(short(10**400)) == 60


@pytest.mark.parametrize(
    ("labels", "refused"),
    [
        ([1, 0, "0"], False),
        ([1, -1, "-1"], False),
        ([True, False, -1], False),  # true and false say what they mean
        ([1, -1, 0], True),
        (["+1", "-1", "0"], True),
    ],
)
def test_a_zero_beside_a_minus_one_is_neither_yes_nor_no(labels: list, refused: bool) -> None:
    rows = [(f"line {i}", {"label": label}) for i, label in enumerate(labels, 1)]
    if not refused:
        refuse_ambiguous([*rows, ("line 9", None)])
        return
    with pytest.raises(UserError, match=r"-1 \(line 2: label .*\) and of 0 \(line 3: label .*\)"):
        refuse_ambiguous(rows)
