"""Folders to rows, and the part of a data set that a split names.

A folder is what `Dataset.save_to_disk` wrote, or holds files of one kind: each a split by its name (`train.jsonl`,
`data/test-00000-of-00002.parquet`), or, where no name tells one, all of them together the only split.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf.data.files import kind_of_file, read_file
from rlhf.errors import UserError

type Located = tuple[str, Any]  # a row with where it stands

ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")  # of a data set, no rows of it
SHARD = re.compile(r"(?P<split>[\w.]+?)-\d{5}-of-\d{5}")  # as the Hub names the pieces of a split
WORDS = {  # in the names of files and folders
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


def read_folder(folder: Path, split: str) -> list[Located]:
    """The rows of a split of a folder, each with its file and place.

    Raises:
        UserError: the folder holds no data, has no such split, or its files are of several kinds.
    """
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return part_of(split, _saved(folder))
    return part_of(split, _files(folder))


def part_of(split: str, rows_of: Callable[[str], list[Located]]) -> list[Located]:
    """The rows that a split names: `train`; a slice of it, `train[:1%]` or `train[100:200]`; or several, `train+test`.

    Raises:
        UserError: it is none of these.
    """
    if not {*split} & {*"[+"}:
        return rows_of(split)
    from datasets import ReadInstruction

    names = dict.fromkeys(re.sub(r"\[.*", "", part.strip()) for part in split.split("+"))
    rows = {name: rows_of(name) for name in names}
    try:
        parts = ReadInstruction.from_spec(split).to_absolute({name: len(own) for name, own in rows.items()})
    except (ValueError, AssertionError) as error:
        raise UserError(f"data.split: '{split}' is no split such as train, train[:1%] or train[100:200]") from error
    return [row for part in parts for row in rows[part.splitname][part.from_ : part.to]]


def _saved(folder: Path) -> Callable[[str], list[Located]]:
    """Of what `save_to_disk` wrote: a data set, which is one split whatever its name, or several by name."""
    from datasets import DatasetDict, load_from_disk

    try:
        saved = load_from_disk(str(folder))
    except Exception as error:  # of many kinds: pyarrow, json, missing files
        raise UserError(f"data.path: '{folder}' cannot be read: {next(iter(str(error).splitlines()), '')}") from error

    def rows_of(split: str) -> list[Located]:
        if isinstance(saved, DatasetDict) and split not in saved:
            raise _no_split(folder, split, list(map(str, saved)))
        own = saved[split] if isinstance(saved, DatasetDict) else saved
        return [(f"{folder} row {i}", dict(row)) for i, row in enumerate(own)]

    return rows_of


def _files(folder: Path) -> Callable[[str], list[Located]]:
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and kind_of_file(file.name) and file.name not in ABOUT and not _is_hidden(file, folder)
    ]
    kinds = {str(kind_of_file(file.name)) for file in files}
    if len(kinds) != 1:
        found = f"holds files of several kinds ({', '.join(sorted(kinds))})" if kinds else "holds no rows"
        raise UserError(
            f"data.path: the folder '{folder}' {found}",
            hint="Wanted is what save_to_disk wrote, or .jsonl, .json, .parquet or .csv files of one kind.",
        )
    splits = {file: _split_of(file.relative_to(folder)) for file in files}
    told = {split for split in splits.values() if split}

    def rows_of(split: str) -> list[Located]:
        if told and split not in told:
            raise _no_split(folder, split, sorted(told))
        return [row for file in files if not told or splits[file] == split for row in read_file(str(file))]

    return rows_of


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _split_of(file: Path) -> str:
    """By the name of a file or of the folders that it is in; "" where none tells."""
    if shard := SHARD.match(file.name):
        return shard["split"]
    words = re.split(r"[^A-Za-z]+", str(file.with_suffix("")))
    return next((WORDS[word.lower()] for word in reversed(words) if word.lower() in WORDS), "")


def _no_split(folder: Path, split: str, there: list[str]) -> UserError:
    return UserError(f"data.split: '{folder}' has no split '{split}'; there are {', '.join(there)}")
