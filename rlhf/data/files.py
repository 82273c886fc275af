"""Local files to rows: .jsonl, .json, .csv and .parquet, each also packed (.gz).

A path is a name and nothing else: `data[1].csv`, `a*b.json` and `x::y.jsonl` are files like any other. A byte-order
mark at the start is skipped. What a .csv holds is text: "007" stays "007", and an empty cell is missing.
"""

import csv
import gzip
import io
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlhf.atomic import write_whole
from rlhf.errors import UserError

KINDS = (".jsonl", ".json", ".parquet", ".csv")
CSV_CELL = 2**31 - 1  # characters; csv's own limit is 131,072


def kind_of_file(path: str) -> str | None:
    """Its kind by its name, e.g. ".csv" of "Rows.CSV.gz"; None for any other name."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in KINDS else None


def read_file(path: str) -> list[tuple[str, Any]]:
    """Every row, with where it stands: by line from 1 ('FILE line 7') where the file has lines, else by number from 0
    ('FILE row 6'). A row is what the file holds; whether it is an object with columns is seen to later.

    Raises:
        UserError: the file cannot be read as what its name says; the line is named where there is one.
    """
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    file, kind = Path(path), kind_of_file(path)
    assert kind is not None  # the caller has asked
    try:
        if kind == ".jsonl":
            return list(_jsonl(file, _lines(file)))
        with _open(file) as stream:
            return list(readers[kind](file, stream.read()))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"data.path: {file} is no whole .gz file: {error}") from error
    except OSError as error:
        raise UserError(f"data.path: {file} cannot be read: {error.strerror or error}") from error


def _open(file: Path) -> Any:
    return gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb")


def _lines(file: Path) -> Iterator[bytes]:
    number = 0
    try:
        with _open(file) as stream:
            for line in stream:
                number += 1
                yield line
    except (EOFError, zlib.error) as error:
        raise UserError(f"data.path: {file} ends in the middle, after line {number}: {error}") from error


def _jsonl(file: Path, lines: Iterator[bytes]) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(lines, start=1):
        text = _text(line, f"{file} line {number}", first=number == 1)
        if text.strip():
            yield f"{file} line {number}", _parsed(text, f"{file} line {number}")


def _json(file: Path, content: bytes) -> Iterator[tuple[str, Any]]:
    """A list of rows; an object of columns, lists of one length; or one row a line, as .jsonl has it."""
    text = _text(content, str(file), first=True)
    try:
        value = json.loads(text, object_pairs_hook=_once_each)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise UserError(f"data.path: {file} cannot be read as a file of JSON: {error}") from error
        yield from _jsonl(file, iter(content.splitlines(keepends=True)))
        return
    except (ValueError, RecursionError) as error:
        raise UserError(f"data.path: {file} cannot be read as a file of JSON: {_reason(error)}") from error
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        lengths = {name: len(column) for name, column in value.items()}
        if len(set(lengths.values())) > 1:
            raise UserError(f"data.path: {file} has columns of several lengths: {lengths}")
        value = [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]
    elif isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise UserError(f"data.path: {file} holds {type(value).__name__}, wanted a list of rows, or columns")
    yield from ((f"{file} row {i}", row) for i, row in enumerate(value))


def _csv(file: Path, content: bytes) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(CSV_CELL)
    table = csv.reader(io.StringIO(_text(content, str(file), first=True), newline=""), strict=True)
    line = 1
    try:
        names = next(table, [])
        _refuse_one_name(file, names)
        line = table.line_num + 1
        for cells in table:
            if cells:
                yield f"{file} line {line}", _csv_row(names, cells)
            line = table.line_num + 1
    except csv.Error as error:
        raise UserError(f"data.path: {file} line {line} is no row of a .csv: {error}") from error


def _refuse_one_name(file: Path, names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise UserError(f"data.path: {file} has two columns of one name: {names}")


def _csv_row(names: list[str], cells: list[str]) -> Any:
    if len(cells) > len(names):
        return Unreadable(f"{len(cells)} cells for {len(names)} columns: a cell with a comma needs quotes")
    return {name: cell or None for name, cell in zip(names, [*cells, *[""] * (len(names) - len(cells))], strict=True)}


def _parquet(file: Path, content: bytes) -> Iterator[tuple[str, Any]]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        number = 0
        table = ParquetFile(io.BytesIO(content))
        _refuse_one_name(file, table.schema_arrow.names)
        for batch in table.iter_batches():
            for row in batch.to_pylist():
                yield f"{file} row {number}", row
                number += 1
    except (ArrowException, ValueError, OverflowError) as error:
        raise UserError(f"data.path: {file} cannot be read as a .parquet file: {_reason(error)}") from error


class Unreadable(str):
    """In place of a row that cannot be made out: the reason."""


def _text(content: bytes, where: str, *, first: bool) -> str:
    try:
        return content.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"data.path: {where} is not UTF-8 text: {error}") from error


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:
        raise UserError(f"data.path: {where} is not JSON: {_reason(error)}") from error


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, none of whose keys is there twice: the last one would be taken, and the others dropped."""
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice in one object")
    return value


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return next(iter(str(error).splitlines()), type(error).__name__)


# ---------------------------------------------------------------------------------------------------------- writing


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One row a line, beside its place and renamed into it. What JSON has no word for (a time, a decimal) is written as
    text, not-a-number as null."""
    write_whole(path, "".join(json.dumps(_plain(row)) + "\n" for row in rows))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inside) for inside in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def refuse_output(path: Path, *, reads: str = "") -> None:
    """See that a .jsonl file can be written, before anything is computed for it.

    Raises:
        UserError: it is no .jsonl file, there is no such folder, it cannot be written to, or the file exists: it may be
            somebody's.
    """
    if not path.parent.is_dir():
        raise UserError(f"--output: there is no folder '{path.parent}'")
    if path.is_dir():
        raise UserError(f"--output: '{path}' is a folder, wanted the name of a file")
    if reads and path.exists() and Path(reads).exists() and path.samefile(reads):
        raise UserError(f"--output: '{path}' is the file that is read", hint="Write to another one.")
    if path.exists() or path.is_symlink():
        raise UserError(f"--output: '{path}' exists already", hint="Remove it, or write elsewhere.")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"--output: nothing can be written into '{path.parent}'")
    if path.suffix != ".jsonl":
        raise UserError(f"--output: '{path}' is not a .jsonl file")
