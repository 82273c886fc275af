"""Folders as data: what save_to_disk wrote, files by split, and slices."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from rlhf.data.rows import load_rows
from rlhf.errors import UserError

ROWS = [{"a": i} for i in range(10)]


def jsonl(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def values(path: Path, split: str = "train") -> list[int]:
    return [row["a"] for _, row in load_rows(str(path), split=split)]


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    """A data set is one split, whatever its name; several have theirs."""
    Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "one"))
    assert values(tmp_path / "one") == list(range(10))
    assert values(tmp_path / "one", "train[:20%]") == [0, 1]
    assert load_rows(str(tmp_path / "one"))[3] == (f"{tmp_path}/one row 3", {"a": 3})
    parts: Any = {"train": Dataset.from_list(ROWS[:7]), "test": Dataset.from_list(ROWS[7:])}
    DatasetDict(parts).save_to_disk(str(tmp_path / "two"))
    assert values(tmp_path / "two", "test") == [7, 8, 9]
    assert values(tmp_path / "two", "test+train[:1]") == [7, 8, 9, 0]
    with pytest.raises(UserError, match="has no split 'validation'; there are train, test"):
        load_rows(str(tmp_path / "two"), split="validation")


def test_files_are_splits_by_their_names(tmp_path: Path) -> None:
    jsonl(tmp_path / "data" / "train.jsonl", ROWS[:4])
    jsonl(tmp_path / "data" / "my-test.jsonl", ROWS[4:6])
    jsonl(tmp_path / "dev" / "part.jsonl", ROWS[6:])
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / ".cache").mkdir()
    jsonl(tmp_path / ".cache" / "train.jsonl", ROWS)
    assert values(tmp_path) == [0, 1, 2, 3]
    assert values(tmp_path, "test") == [4, 5]
    assert values(tmp_path, "validation") == [6, 7, 8, 9]
    assert load_rows(str(tmp_path))[1][0] == f"{tmp_path}/data/train.jsonl line 2"
    with pytest.raises(UserError, match="has no split 'other'; there are test, train, validation"):
        load_rows(str(tmp_path), split="other")


def test_pieces_of_a_split_as_the_hub_names_them(tmp_path: Path) -> None:
    for i, name in enumerate(["train_sft-00000-of-00002", "train_sft-00001-of-00002", "test_sft-00000-of-00001"]):
        pq.write_table(pa.Table.from_pylist(ROWS[3 * i : 3 * i + 3]), tmp_path / f"{name}.parquet")
    assert values(tmp_path, "train_sft") == [0, 1, 2, 3, 4, 5]
    assert values(tmp_path, "test_sft[:1]") == [6]


def test_files_whose_names_tell_nothing_are_one_split(tmp_path: Path) -> None:
    for name, rows in (("b.csv", ROWS[5:]), ("a.csv", ROWS[:5])):
        (tmp_path / name).write_text("a\n" + "".join(f"{row['a']}\n" for row in rows))
    assert [row["a"] for _, row in load_rows(str(tmp_path), split="test")] == [str(i) for i in range(10)]


def test_a_folder_of_several_kinds_or_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no rows"):
        load_rows(str(tmp_path))
    jsonl(tmp_path / "a.jsonl", ROWS)
    jsonl(tmp_path / "a.json", ROWS)
    with pytest.raises(UserError, match=r"files of several kinds \(\.json, \.jsonl\)"):
        load_rows(str(tmp_path))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "state.json").write_text("{}")
    with pytest.raises(UserError, match="broken' cannot be read"):
        load_rows(str(tmp_path / "broken"))


def test_a_slice_of_a_file(tmp_path: Path) -> None:
    """As the library reads it; a file has one split, so that the name does not matter."""
    jsonl(tmp_path / "a.jsonl", ROWS)
    file = tmp_path / "a.jsonl"
    assert values(file, "train[:30%]") == [0, 1, 2]
    assert values(file, "test[-2:]") == [8, 9]
    assert values(file, "train[2:4]+train[:1]") == [2, 3, 0]
    assert values(file, "any") == list(range(10))
    for odd in ("train[:x]", "train[5", "[:3]", "train[:1]+"):
        with pytest.raises(UserError, match="is no split such as train"):
            load_rows(str(file), split=odd)
