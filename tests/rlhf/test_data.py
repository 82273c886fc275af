"""Rows of files: what is broken is named by its line, and little of it is let through."""

import gzip
import json
import random
from pathlib import Path

import pytest

from rlhf.data import load_rows, usable
from rlhf.errors import UserError


def write(path: Path, rows: list) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def parse(row: dict) -> int:
    if row["a"] < 0:
        raise ValueError(f"a is {row['a']}")
    return row["a"]


def numbered(values: list[int]) -> list[tuple[str, dict]]:
    return [(f"row {i}", {"a": value}) for i, value in enumerate(values)]


def test_up_to_five_percent_are_left_out_and_said() -> None:
    """1 of 20 is 5 %, and allowed; 2 of 39 is 5.1 %, and not."""
    said: list[str] = []
    assert usable(numbered([-1, *range(19)]), parse, say=said.append) == list(range(19))
    assert said == ["data: 1 of 20 rows are left out (row 0: a is -1)"]
    with pytest.raises(UserError, match=r"2 of 39 rows cannot be used \(row 37: a is -1; row 38: a is -2\)"):
        usable(numbered([*range(37), -1, -2]), parse, say=said.append)
    assert len(said) == 1


def test_nothing_is_too_little() -> None:
    with pytest.raises(UserError, match="there are no rows"):
        usable([], parse, say=print)
    with pytest.raises(UserError, match="1 of 1 rows"):
        usable(numbered([-1]), parse, say=print)


def test_jsonl(tmp_path: Path) -> None:
    """Empty lines are nothing, and count as lines."""
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n\n{"a": 2}')
    assert load_rows(str(file)) == [(f"{file} line 1", {"a": 1}), (f"{file} line 3", {"a": 2})]
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert [row for _, row in load_rows(str(packed))] == [{"a": 1}, {"a": 2}]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n{"a": 2}\n{"a": \n{"a": 4}\n')
    with pytest.raises(UserError, match="line 3 is not JSON"):
        load_rows(str(file))


@pytest.mark.parametrize("packed", [False, True])
def test_a_line_that_is_not_utf_8_is_named(tmp_path: Path, packed: bool) -> None:
    """Text is decoded in blocks of thousands of characters: the line that is read is not the one that fails."""
    content = b"".join(b'{"a": %d}\n' % i for i in range(50)) + b'{"a": "\xff"}\n' + b'{"a": 1}\n' * 50
    file = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
    file.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(UserError, match="line 51 is not UTF-8 text"):
        load_rows(str(file))
    file.write_bytes(gzip.compress('{"a": "é"}'.encode()) if packed else '{"a": "é"}'.encode())
    assert load_rows(str(file))[0][1] == {"a": "é"}


def test_a_compressed_file_cut_short_or_damaged(tmp_path: Path) -> None:
    whole = gzip.compress("".join(f'{{"a": "{random.Random(i).random()}"}}\n' for i in range(3000)).encode())
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"ends in the middle, after line [1-9]"):
        load_rows(str(cut))
    damaged = tmp_path / "damaged.jsonl.gz"
    damaged.write_bytes(whole[:200] + b"\xff" * 60 + whole[260:])
    with pytest.raises(UserError):
        load_rows(str(damaged))
    damaged.write_bytes(b"not gzip at all")
    with pytest.raises(UserError):
        load_rows(str(damaged))


def test_wrong_paths(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        load_rows(str(tmp_path / "nothing.json"))
    odd = tmp_path / "a.txt"
    odd.write_text("x")
    with pytest.raises(UserError, match=r"is not a \.jsonl"):
        load_rows(str(odd))


def test_csv_and_json(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("prompt,completion\nx,y\nz,w\n")
    assert load_rows(str(table)) == [
        ("row 0", {"prompt": "x", "completion": "y"}),
        ("row 1", {"prompt": "z", "completion": "w"}),
    ]
    broken = tmp_path / "b.json"
    broken.write_text('{"a": ')
    with pytest.raises(UserError, match="cannot be read as a file"):
        load_rows(str(broken))
