"""Rows from the Hub, a local file or a folder, checked before anything is trained on them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from rlhf.config.paths import home
from rlhf.data.files import KINDS, Unreadable, kind_of_file, read_file
from rlhf.data.folders import part_of, read_folder
from rlhf.errors import MAX_UNUSABLE, UserError
from rlhf.hub import may_be_cached, use_cache_if_unreachable

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
Row = dict[str, Any]


def load_rows(path: str, *, split: str = "train") -> list[tuple[str, Any]]:
    """All rows, each with where it stands ('file.jsonl line 7', 'row 7'), for messages. Pass them through `usable`:
    what a file holds in place of a row may be no object at all.

    `path` is a local .jsonl, .json, .parquet or .csv file (also .gz), a folder of such files or of `save_to_disk`, or a
    data set id of the Hub, with `:subset` where it has several (openai/gsm8k:main). The name of a file is a name, not a
    pattern. `split` may be a slice, such as `train[:1%]`; a file is one split, whatever it is called.
    """
    path = home(path)
    refuse_missing(path)
    file = Path(path)
    if file.is_dir():
        return read_folder(file, split)
    if kind_of_file(path):
        return part_of(split, lambda _: read_file(path))
    hub_id, _, subset = path.partition(":")
    from datasets import load_dataset

    try:
        loaded = load_dataset(*[hub_id, subset][: 2 if subset else 1], split=split)
    except Exception as error:  # of many kinds: Hub, network, format
        raise _not_given(path, str(error).splitlines()[0]) from error
    return [(f"row {i}", dict(row)) for i, row in enumerate(loaded)]


def refuse_missing(path: str, *, key: str = "data.path") -> None:
    """See that a path is a file or folder here, or could be a data set of the Hub or its cache: without reading it.

    Raises:
        UserError: it is neither.
    """
    path = home(path)
    file = Path(path)
    if file.is_dir():
        return
    if kind_of_file(path):
        if not file.is_file():
            raise UserError(f"{key}: there is no file '{path}'")
        return
    hub_id, _, subset = path.partition(":")
    if file.exists() or Path(hub_id).exists():
        raise UserError(f"{key}: '{path}' is not a {', '.join(KINDS[:-1])} or {KINDS[-1]} file")
    if not HUB_ID.fullmatch(hub_id) or {":", "/"} & {*subset}:
        raise UserError(f"{key}: '{path}' is no file here, and no id of a data set on the Hub (owner/name:subset)")
    reason = use_cache_if_unreachable()
    if reason and not may_be_cached(hub_id):
        raise _not_given(path, reason)


def _not_given(path: str, reason: str) -> UserError:
    return UserError(
        f"data.path: '{path}' is no file here, and the Hub did not give it: {reason}",
        hint="Check the id, data.split and the network; HF_TOKEN for gated sets.",
    )


def refuse_larger_step(examples: int, batch_size: int, *, what: str) -> None:
    """A step of more examples than there are would take some twice, and one of millions is never made.

    Raises:
        UserError: there are fewer than `batch_size`.
    """
    if examples < batch_size:
        raise UserError(f"data: {examples} {what} to train on are fewer than batch_size {batch_size}")


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


# -------------------------------------------------------------------------------------------- which rows can be used


class TooLong(ValueError):
    """A row that does not fit; `needs` is the max_length that it would fit into, in tokens."""

    def __init__(self, needs: int, max_length: int):
        super().__init__(f"takes {needs} tokens, max_length is {max_length}")
        self.needs = needs


@dataclass(frozen=True)
class Sifted[T]:
    """What can be used of some items and what cannot, each with where it stands."""

    kept: list[tuple[str, T]]
    refused: list[tuple[str, Exception]]
    what: str = "rows"

    @property
    def seen(self) -> int:
        return len(self.kept) + len(self.refused)


def usable[T](rows: Iterable[tuple[str, Any]], parse: Callable[[Row], T], *, say: Callable[[str], None]) -> list[T]:
    """Parse every row (and tokenize it, so that all reasons are counted together); rows that `parse` refuses with
    ValueError or UserError, and rows that are no objects or no text, are counted and shown.

    Raises:
        UserError: if more than 5 % are refused, or nothing is left.
    """
    sifted = sift_rows(rows, parse)
    refuse_many_unusable([sifted], say=say)
    return [item for _, item in sifted.kept]


def sift_rows[T](rows: Iterable[tuple[str, Any]], parse: Callable[[Row], T]) -> Sifted[T]:
    """`sift` for rows as they come from a file."""
    return sift(rows, lambda row: parse(_checked(row)))


def sift[S, T](items: Iterable[tuple[str, S]], parse: Callable[[S], T], *, what: str = "rows") -> Sifted[T]:
    """Items parsed, and those that `parse` refuses with the reason; see `refuse_many_unusable`, which judges them."""
    sifted = Sifted[T]([], [], what)
    for where, item in items:
        try:
            sifted.kept.append((where, parse(item)))
        except (ValueError, UserError) as error:
            sifted.refused.append((where, error))
    return sifted


def refuse_many_unusable(stages: Sequence[Sifted[Any]], *, say: Callable[[str], None]) -> None:
    """Count and show what was refused in stages that follow each other, where a later one may see a choice of what the
    earlier kept. The share that is refused is 1 - the product of the shares that were kept.

    Raises:
        UserError: if more than 5 % are refused, or nothing is left.
    """
    share_kept = 1.0
    for stage in stages:
        share_kept *= len(stage.kept) / max(1, stage.seen)
    refused = [pair for stage in stages for pair in stage.refused]
    examples = "; ".join(f"{where}: {error}" for where, error in refused[:3])
    counted = [stage for stage in stages if stage.refused] or stages[:1]
    counts = " and ".join(f"{len(stage.refused)} of {stage.seen} {stage.what}" for stage in counted)
    if not stages[0].seen:
        raise UserError("data.path: there are no rows")
    if 1 - share_kept > MAX_UNUSABLE + 1e-9 or not stages[-1].kept:
        raise UserError(f"data.path: {counts} cannot be used ({examples})", hint=_hint(stages, refused))
    if refused:
        say(f"data: {counts} are left out ({examples})")


def _hint(stages: Sequence[Sifted[Any]], refused: Sequence[tuple[str, Exception]]) -> str:
    """What would help: the max_length that 95 % fit into, where length is what most are refused for; or what the
    error itself advises, where it is one and the same for all."""
    needs = sorted((error.needs for _, error in refused if isinstance(error, TooLong)), reverse=True)
    if len(needs) > len(refused) / 2:
        spare = int(MAX_UNUSABLE * stages[-1].seen) - (len(refused) - len(needs))
        fits = needs[min(max(0, spare), len(needs) - 1)]
        return f"Raise max_length: {fits} fits at least 95 % of the data. A run starts with at most 5 % unusable."
    hints = {getattr(error, "hint", None) for _, error in refused}
    if len(hints) == 1 and (hint := hints.pop()):
        return hint
    return "Mend or remove those rows; a run starts with at most 5 % unusable."


def _checked(row: object) -> Row:
    """The row, if it is an object whose texts are texts.

    Raises:
        ValueError: it is a list, null or a number; or it holds half a character.
    """
    if isinstance(row, Unreadable):
        raise ValueError(str(row))
    if not isinstance(row, Mapping):
        raise ValueError(f"wanted an object with columns, found {'null' if row is None else type(row).__name__}")
    inside: list[Any] = [row]
    while inside:
        value = inside.pop()
        if isinstance(value, Mapping):
            inside += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            inside += value
        elif isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                around = value[max(0, error.start - 20) : error.start]
                raise ValueError(f"half a character (a lone surrogate, as of a cut emoji) behind {around!r}") from error
    return dict(row)
