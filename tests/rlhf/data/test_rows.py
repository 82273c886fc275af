"""What is let through of a file's rows, and what is said of the rest. How files are read: test_row_files.py."""

import gzip
import json
import random
from pathlib import Path

import pytest

from rlhf.data.rows import TooLong, load_rows, refuse_larger_step, refuse_many_unusable, sift, sift_rows, usable
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
    with pytest.raises(UserError, match=r"^data\.path: there are no rows$"):
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


@pytest.mark.parametrize("odd", [["a", "list"], None, 3, "text"])
def test_a_row_that_is_no_object_is_counted(odd: object) -> None:
    """In every reader, since it never sees one."""
    said: list[str] = []
    rows: list = [*numbered(list(range(39))), ("row 39", odd)]
    assert usable(rows, parse, say=said.append) == list(range(39))
    (text,) = said
    assert text.startswith("data: 1 of 40 rows are left out (row 39: wanted an object with columns, found ")


def test_half_a_character_makes_a_row_unusable(tmp_path: Path) -> None:
    """Half an emoji as JSON escapes it, anywhere in the row; whole ones, in either form, are text."""
    file = tmp_path / "a.jsonl"
    whole = [*['{"a": 1, "b": "x"}'] * 50, '{"a": 1, "b": "\\ud83d\\ude00 é"}', '{"a": 1, "b": "\U0001f600"}']
    half = ['{"a": 1, "b": [{"c": "see \\ud83d"}]}', '{"a": 1, "\\ude00": 2}']
    file.write_text("\n".join([*whole, *half]))
    said: list[str] = []
    assert len(usable(load_rows(str(file)), parse, say=said.append)) == 52
    assert "2 of 54 rows are left out" in said[0]
    assert "line 53: half a character" in said[0]
    assert "behind 'see '" in said[0]


def test_a_row_of_a_csv_with_too_many_cells_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a,b\n" + "1,2\n" * 30 + "1,2,3\n")
    said: list[str] = []
    assert len(usable(load_rows(str(file)), lambda row: row["a"], say=said.append)) == 30
    assert "line 32: 3 cells for 2 columns" in said[0]


def test_what_no_row_can_mend_keeps_its_own_advice() -> None:
    """An error of the user's that every row meets."""

    def refuse(row: dict) -> int:
        raise UserError("no template", hint="Take another model.")

    with pytest.raises(UserError, match="row 0: no template") as caught:
        usable(numbered([1, 2]), refuse, say=print)
    assert caught.value.hint == "Take another model."


def test_too_long_rows_name_the_length_that_would_do() -> None:
    """Rows of 1, 2, ..., 100 tokens in 60: 95 of 100 fit into 95."""

    def fit(row: dict) -> int:
        if row["a"] > 60:
            raise TooLong(row["a"], 60)
        return row["a"]

    with pytest.raises(UserError, match=r"40 of 100 rows cannot be used .*takes 61 tokens, max_length is 60") as caught:
        usable(numbered(list(range(1, 101))), fit, say=print)
    assert "Raise max_length: 95 fits" in str(caught.value.hint)


def test_stages_count_together() -> None:
    """4 of 100 refused, then 4 of the 96 left: 8 of 100 in all. Of a choice of 48 the same 2: 1 - 0.96 * 46 / 48."""
    first = sift_rows(numbered([*range(96), -1, -1, -1, -1]), parse)
    for chosen, refused in ((first.kept, 4), (first.kept[:48], 2)):
        second = sift(chosen, lambda a: parse({"a": -1 if a in (0, 1, 50, 51) else a}), what="rankings")
        assert len(second.refused) == refused
        with pytest.raises(UserError, match=rf"4 of 100 rows and {refused} of {len(chosen)} rankings cannot be used"):
            refuse_many_unusable([first, second], say=print)
    third, said = sift(first.kept, lambda a: a), list[str]()
    refuse_many_unusable([first, third], say=said.append)
    assert said[0].startswith("data: 4 of 100 rows are left out")


def test_a_step_larger_than_the_data_is_refused() -> None:
    refuse_larger_step(4, 4, what="pairs")
    with pytest.raises(UserError, match="4 pairs to train on are fewer than batch_size 20000000"):
        refuse_larger_step(4, 20_000_000, what="pairs")
