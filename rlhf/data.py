"""Rows from the Hub or a local file, checked before anything is trained on them."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from rlhf.errors import UserError

MAX_UNUSABLE = 0.05
Row = dict[str, Any]


def load_rows(path: str, *, split: str = "train") -> list[tuple[str, Row]]:
    """All rows, each with where it stands ('file.jsonl line 7', 'row 7'), for messages.

    `path` is a local .jsonl, .json, .parquet or .csv file (also .gz), or a data set id of the Hub, with `:subset` where
    it has several (openai/gsm8k:main).
    """
    file = Path(path)
    names = file.suffixes
    if file.is_file() and ".jsonl" in names:
        return _read_jsonl(file)
    kinds = {".json": "json", ".parquet": "parquet", ".csv": "csv"}
    kind = next((kinds[name] for name in names if name in kinds), None)
    if kind and not file.is_file():
        raise UserError(f"data.path: there is no file '{path}'")
    if file.exists() and kind is None:
        raise UserError(f"data.path: '{path}' is not a .jsonl, .json, .parquet or .csv file")
    from datasets import load_dataset

    try:
        if kind:
            loaded = load_dataset(kind, data_files=path, split="train")
        else:
            loaded = load_dataset(*path.split(":", 1), split=split)
    except Exception as error:  # of many kinds: Hub, network, format
        where = "cannot be read as a file" if kind else "is no file here, and the Hub did not give it"
        raise UserError(
            f"data.path: '{path}' {where}: {str(error).splitlines()[0]}",
            hint=None if kind else "Check the id, data.split and the network; HF_TOKEN for gated sets.",
        ) from error
    return [(f"row {i}", dict(row)) for i, row in enumerate(loaded)]


def _read_jsonl(file: Path) -> list[tuple[str, Row]]:
    import gzip
    import zlib

    rows = []
    number = 0
    try:
        # Bytes: text is decoded in blocks, ahead of the line that is being read.
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    rows.append((f"{file} line {number}", json.loads(line.decode())))
    except UnicodeDecodeError as error:
        raise UserError(f"data.path: {file} line {number} is not UTF-8 text: {error}") from error
    except ValueError as error:
        raise UserError(f"data.path: {file} line {number} is not JSON: {error}") from error
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"data.path: {file} ends in the middle, after line {number}: {error}") from error
    return rows


def in_epochs[T](items: Sequence[T], *, seed: int, first: int, count: int) -> list[T]:
    """Items number `first`, `first + 1`, ... of an endless stream: all of them, shuffled anew for every pass.

    A function of seed and number alone, so that a resumed run meets the same data.
    """
    orders: dict[int, list[int]] = {}
    chosen = []
    for number in range(first, first + count):
        epoch, place = divmod(number, len(items))
        if epoch not in orders:
            orders[epoch] = list(range(len(items)))
            Random(f"{seed} {epoch}").shuffle(orders[epoch])
        chosen.append(items[orders[epoch][place]])
    return chosen


def usable[T](rows: Iterable[tuple[str, Row]], parse: Callable[[Row], T], *, say: Callable[[str], None]) -> list[T]:
    """Parse every row; rows that `parse` refuses with ValueError are counted and shown.

    Raises:
        UserError: if more than 5 % are refused, or nothing is left.
    """
    good: list[T] = []
    bad: list[str] = []
    for where, row in rows:
        try:
            good.append(parse(row))
        except ValueError as error:
            bad.append(f"{where}: {error}")
    examples = "; ".join(bad[:3])
    if len(bad) > MAX_UNUSABLE * (len(good) + len(bad)) or not good:
        raise UserError(
            f"data.path: {len(bad)} of {len(good) + len(bad)} rows cannot be used ({examples or 'there are no rows'})",
            hint="Mend or remove those rows; a run starts with at most 5 % unusable.",
        )
    if bad:
        say(f"data: {len(bad)} of {len(good) + len(bad)} rows are left out ({examples})")
    return good
