"""The file that is named is the file that is read, as it is written."""

import datetime
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf.data.files import kind_of_file
from rlhf.data.rows import load_rows
from rlhf.errors import UserError

ROWS = [{"q": "one", "n": 1}, {"q": "two", "n": 2}]


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    """As the kind that the name says."""
    if kind_of_file(file.name) == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif kind_of_file(file.name) == ".csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        file.write_text("\n".join(lines) + "\n")
    elif kind_of_file(file.name) == ".json":
        file.write_text(json.dumps(rows))
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def rows_of(file: Path) -> list[Any]:
    return [row for _, row in load_rows(str(file))]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
@pytest.mark.parametrize("name", ["part[7]", "part*", "part?", "a::b", "{a,b}", "part[!2]", "**"])
def test_a_name_is_no_pattern(tmp_path: Path, name: str, kind: str) -> None:
    """Beside files that the name would match as a pattern, or that come first in the folder."""
    for other in ("part7", "part2", "partx", "a", "b", "aaa"):
        write(tmp_path / f"{other}.{kind}", [{"q": "WRONG", "n": 0}])
    file = write(tmp_path / f"{name}.{kind}", ROWS)
    assert [row["q"] for row in rows_of(file)] == ["one", "two"]


@pytest.mark.parametrize("name", ["part[7].csv", "nothing*.json", "a::b.jsonl"])
def test_a_pattern_finds_nothing(tmp_path: Path, name: str) -> None:
    for other in ("part7.csv", "nothing1.json", "b.jsonl"):
        write(tmp_path / other, ROWS)
    with pytest.raises(UserError, match="there is no file"):
        load_rows(str(tmp_path / name))


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_packed_files(tmp_path: Path, kind: str) -> None:
    plain = write(tmp_path / f"a.{kind}", ROWS)
    packed = tmp_path / f"a.{kind}.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert rows_of(packed) == rows_of(plain)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_byte_order_mark_is_skipped(tmp_path: Path, kind: str, packed: bool) -> None:
    file = write(tmp_path / f"a.{kind}", ROWS)
    content = b"\xef\xbb\xbf" + file.read_bytes()
    file = tmp_path / (f"b.{kind}.gz" if packed else f"b.{kind}")
    file.write_bytes(gzip.compress(content) if packed else content)
    assert [row["q"] for row in rows_of(file)] == ["one", "two"]


def test_a_mark_inside_a_text_stays(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"q": "x"}\n{"q": "\ufeffy"}\n')
    assert rows_of(file) == [{"q": "x"}, {"q": "\ufeffy"}]


def test_cells_of_a_csv_are_text(tmp_path: Path) -> None:
    """Numbers, dates and truth stay as they are written; an empty cell is missing; quotes hold commas and lines."""
    file = tmp_path / "a.csv"
    file.write_text('prompt,completion,n\nx,12,007\ny,,1e5\n"a, b","true\nfalse",NA\nz,2024-01-01\n\n')
    assert load_rows(str(file)) == [
        (f"{file} line 2", {"prompt": "x", "completion": "12", "n": "007"}),
        (f"{file} line 3", {"prompt": "y", "completion": None, "n": "1e5"}),
        (f"{file} line 4", {"prompt": "a, b", "completion": "true\nfalse", "n": "NA"}),
        (f"{file} line 6", {"prompt": "z", "completion": "2024-01-01", "n": None}),
    ]


def test_a_long_cell(tmp_path: Path) -> None:
    """csv's own limit is 131,072 characters."""
    file = tmp_path / "a.csv"
    file.write_text(f"q\n{'x' * 200_000}\n")
    assert len(rows_of(file)[0]["q"]) == 200_000


@pytest.mark.parametrize(
    ("text", "words"),
    [("a,a\n1,2\n", "two columns of one name"), ('a,b\n1,2\n3,"4', "line 3 is no row of a .csv")],
)
def test_broken_csv(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "a.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=words):
        load_rows(str(file))


@pytest.mark.parametrize(
    "text",
    [
        '[{"q": "one", "n": 1}, {"q": "two", "n": 2}]',
        '{"q": ["one", "two"], "n": [1, 2]}',
        '{"q": "one", "n": 1}\n{"q": "two", "n": 2}\n',
        '\n[\n {"q": "one", "n": 1},\n {"q": "two",\n "n": 2}\n]\n',
    ],
)
def test_json_of_rows_of_columns_and_of_lines(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    assert rows_of(file) == ROWS


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", '{"a": ', "cannot be read as a file of JSON"),
        ("a.json", '{"a": [1, 2], "b": [1]}', "several lengths"),
        ("a.json", "3", "holds int, wanted a list of rows"),
        ("a.json", '{"a": 1}\n{"a": \n', "line 2 is not JSON"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.jsonl", '{"a": 1}\n' + "[" * 100_000 + "\n", "line 2 is not JSON: it is nested too deeply"),
        ("a.parquet", "no parquet", "cannot be read as a .parquet file"),
        ("a.txt", "x", "is not a .jsonl, .json, .parquet or .csv file"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        load_rows(str(file))
    assert str(file) in caught.value.message


def test_the_last_ending_says_the_kind() -> None:
    names = ["a.json.csv", "A.CSV", "v1.json/a.parquet", "a.jsonl.gz", "a.gz", "a.json.zip", "json", ".json"]
    assert [kind_of_file(name) for name in names] == [".csv", ".csv", ".parquet", ".jsonl", None, None, None, None]


def test_parquet_keeps_types(tmp_path: Path) -> None:
    time = datetime.datetime(2024, 1, 2, 3, 4, 5)
    row = {"time": time, "messages": [{"role": "user", "content": "x"}], "none": None}
    file = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([row, {**row, "none": 1.5}]), file)
    assert load_rows(str(file))[0] == (f"{file} row 0", row)


@pytest.mark.parametrize("path", ["x*", "http://a/b", "a/b/c", "hf://datasets/x/y", "a/b:c:d", "[a]/b"])
def test_what_is_no_file_and_no_id_is_not_asked_for(path: str) -> None:
    with pytest.raises(UserError, match="no file here, and no id"):
        load_rows(path)


def test_a_folder_is_not_taken_for_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is called as a data set is read as a folder; a subset is of the Hub alone."""
    folder = tmp_path / "openai" / "gsm8k"
    folder.mkdir(parents=True)
    write(folder / "train.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    assert load_rows("openai/gsm8k")[0][0] == "openai/gsm8k/train.jsonl line 1"
    with pytest.raises(UserError, match=r"is not a \.jsonl"):
        load_rows("openai/gsm8k:main")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_key_that_is_there_twice_is_refused(tmp_path: Path, name: str) -> None:
    """The last one would be taken, and the other dropped in silence."""
    file = tmp_path / name
    file.write_text('{"q": "x", "m": {"a": 1, "b": 2, "a": 3}}')
    with pytest.raises(UserError, match="the key 'a' is there twice in one object"):
        load_rows(str(file))


def test_a_parquet_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], ["q", "q"]), file)
    with pytest.raises(UserError, match="two columns of one name"):
        load_rows(str(file))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(UserError, match=r"the folder '.*a.jsonl' holds no rows"):
        load_rows(str(tmp_path / "a.jsonl"))
