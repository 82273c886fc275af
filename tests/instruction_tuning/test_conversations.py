"""Rows of files to groups of tokens: formats, order, truncation, and which tokens are learned."""

import json
from pathlib import Path

import pytest

from instruction_tuning.config import DataConfig
from instruction_tuning.data import Rows, parse_row, to_groups
from rlhf.chat import encode_prompt
from rlhf.embedded.make import END, character_tokenizer
from rlhf.errors import UserError
from rlhf.groups import micro_batches

ASK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    ("row", "contents"),
    [
        ({"messages": ASK}, ["a", "b"]),
        ({"messages": [{"role": "system", "content": "s"}, *ASK], "other": 1}, ["s", "a", "b"]),
        ({"prompt": "a", "completion": "b"}, ["a", "b"]),
        ({"prompt": ASK[:1], "completion": ASK[1:]}, ["a", "b"]),
        ({"instruction": "a", "output": "b"}, ["a", "b"]),
        ({"instruction": "a", "input": "c", "output": "b"}, ["a\n\nc", "b"]),
        ({"instruction": "a", "input": "", "output": "b"}, ["a", "b"]),
        ({"messages": None, "prompt": "a", "completion": "b"}, ["a", "b"]),
    ],
)
def test_formats(row: dict, contents: list[str]) -> None:
    conversation = parse_row(row)
    assert [message["content"] for message in conversation] == contents
    assert [message["role"] for message in conversation][-2:] == ["user", "assistant"]


@pytest.mark.parametrize(
    "row",
    [
        {"text": "a"},
        {"messages": ASK[:1]},
        {"messages": [ASK[0], {"role": "assistant", "content": "  "}]},
        {"messages": [ASK[0], {"role": "assistant", "content": None}]},
        {"prompt": "a", "completion": 3},
        {},
    ],
)
def test_unusable_rows(row: dict) -> None:
    with pytest.raises(ValueError, match=r"wanted|empty|does not end"):
        parse_row(row)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user"}]},
        {"messages": "abc"},
        {"messages": 5},
        {"prompt": [], "completion": []},
        {"instruction": 3, "output": "x"},
        {"instruction": "a", "input": 3, "output": "x"},
        {"messages": [{"role": 3, "content": "a"}, *ASK]},
        {"messages": [{"role": "user", "content": ["a"]}, ASK[1]]},
        {"prompt": {"role": "user", "content": "a"}, "completion": "b"},
        3,
    ],
)
def test_rows_of_the_wrong_shape(row) -> None:
    """Only a ValueError is counted among the 5 % and shown with its line; anything else ends the run without one."""
    with pytest.raises(ValueError, match=r"wanted|empty|does not end"):
        getattr(parse_row, "__wrapped__", parse_row)(row)  # past the check of its signature


def write(folder: Path, count: int) -> str:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"q{i}", "completion": f"a{i}"}) + "\n" for i in range(count)))
    return str(file)


def questions(conversations) -> list[str]:
    return [conversation[0]["content"] for conversation in conversations]


def test_every_epoch_shows_every_row_once_in_another_order(tmp_path: Path) -> None:
    """50 rows, 10 held out (a fifth at most), 40 in epochs of 5 batches of 8; a batch may cross over."""
    path = write(tmp_path, 50)
    data = Rows(DataConfig(path=path, held_out=400), seed=0, say=print)
    held_out = questions(data.held_out())
    epochs = [[q for step in range(5 * e, 5 * e + 5) for q in questions(data.batch(step, 8))] for e in range(2)]
    assert len(held_out) == 10
    for epoch in epochs:
        assert sorted([*epoch, *held_out]) == sorted(f"q{i}" for i in range(50))
    assert epochs[0] != epochs[1]
    across = questions(data.batch(1, 30))
    assert across == [*epochs[0][30:], *epochs[1][:20]]

    other = Rows(DataConfig(path=path, held_out=400), seed=1, say=print)
    assert questions(other.held_out()) == held_out, "runs with other seeds are measured on the same rows"
    assert questions(other.batch(0, 8)) != epochs[0][:8]
    again = Rows(DataConfig(path=path, held_out=400), seed=0, say=print)
    assert questions(again.batch(7, 8)) == questions(data.batch(7, 8)), "nothing but the number of the step matters"
    small = Rows(DataConfig(path=path, held_out=5, size=7), seed=0, say=print)
    assert len({q for step in range(9) for q in questions(small.batch(step, 8))}) == 7


def test_too_many_unusable_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n')
    with pytest.raises(UserError, match=r"1 of 2 rows cannot be used .*rows.jsonl line 2"):
        Rows(DataConfig(path=str(file)), seed=0, say=print)


def test_what_is_learned_token_by_token() -> None:
    """<user> a <end> <assistant> | b <end>: the last two count, and are what a micro-batch predicts."""
    tokenizer = character_tokenizer()
    (group,) = to_groups(tokenizer, [ASK], max_length=100, last_turn_only=False)
    assert group.prompt == encode_prompt(tokenizer, ASK[:1])
    (rows,) = micro_batches([group], token_budget=100)
    counted = rows.target[rows.mask].tolist()
    assert tokenizer.convert_ids_to_tokens(counted) == ["b", END]
    before = rows.input_ids.flatten()[rows.source[rows.mask]].tolist()
    assert tokenizer.convert_ids_to_tokens(before) == ["<|assistant|>", "b"]


def test_truncation() -> None:
    """A prompt of 4 tokens and an answer of 5 + 1: cut at 7, three tokens are left; at 4 or less, nothing to learn."""
    tokenizer = character_tokenizer()
    conversation = [ASK[0], {"role": "assistant", "content": "vwxyz"}]
    lengths = {}
    for max_length in (3, 4, 5, 7, 9, 10, 11):
        groups = to_groups(tokenizer, [conversation], max_length=max_length, last_turn_only=False)
        lengths[max_length] = [len(completion) for group in groups for completion in group.completions]
        assert all(len(c) == len(k) for g in groups for c, k in zip(g.completions, g.counts, strict=True))
    assert lengths == {3: [], 4: [], 5: [1], 7: [3], 9: [5], 10: [6], 11: [6]}


def test_last_turn_only() -> None:
    tokenizer = character_tokenizer()
    conversation = [*ASK, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]
    for last_turn_only, count in ((False, 4), (True, 2)):
        (group,) = to_groups(tokenizer, [conversation], max_length=100, last_turn_only=last_turn_only)
        assert sum(group.counts[0]) == count
