"""Saving and resuming, so that a run that was killed and resumed ends exactly like one that was not.

A checkpoint is written under another name, then renamed. Its manifest is written last: the files with their digests,
the numbers of the loop, and the number of lines of every log. A folder whose manifest fits is a checkpoint. Everything
random in a run is a function of (seed, step, index), so weights, optimizer and a few numbers of the loop are enough,
for any number of processes: nothing in them belongs to one.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from rlhf.errors import UserError

MANIFEST = "manifest.json"
_NAME = re.compile(r"step_(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """One that was found whole."""

    path: Path
    step: int  # steps done
    state: dict[str, Any]  # of the loop
    lines: dict[str, int] | None  # of each log when it was written; None: from before this was written down
    carried: tuple[str, ...] = ()  # files of the run directory that belong to it
    evaluated: bool = True  # whether the evaluation due after its step is in the logs
    origin: bool = False  # whether a run began from it: it was copied from another run


class DamagedError(Exception):
    """A checkpoint that is not what was written."""


def save(
    accelerator: Accelerator,
    run: Path,
    step: int,
    state: Mapping[str, Any],
    *,
    keep: int,
    lines: Mapping[str, int] | None = None,
    carry: Sequence[Path] = (),
    evaluated: bool = True,
) -> Path:
    """Write `run/checkpoints/step_N`, in all processes together; then drop all but the newest `keep`.

    `carry`: files of the run directory that are part of the run's state, where they exist.
    """
    final = run / "checkpoints" / f"step_{step}"
    partial = final.with_name(f".partial_step_{step}")
    carry = [file for file in carry if file.exists()]
    try:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(partial))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            for file in carry:
                _link(file, partial / file.name)
            told = {"step": step, "state": state, "lines": lines, "carried": [file.name for file in carry]}
            _write_manifest(partial, told | {"evaluated": evaluated})
            _flush_to_disk(partial)
    except Exception as error:
        raise not_written(f"checkpoint '{final}'", partial, error) from error
    if accelerator.is_main_process:
        _remove(final)
        partial.rename(final)
        for old in all_of(run)[:-keep]:
            _remove(old)
    accelerator.wait_for_everyone()
    return final


def copy_as_origin(checkpoint: Checkpoint, run: Path) -> None:
    """Make a checkpoint of another run the one that `run` begins from."""
    final = run / "checkpoints" / checkpoint.path.name
    partial = final.with_name(f".partial_{final.name}")
    try:
        shutil.copytree(checkpoint.path, partial)
        told = {"step": checkpoint.step, "state": checkpoint.state, "lines": {}, "carried": list(checkpoint.carried)}
        _write_manifest(partial, told | {"evaluated": True, "origin": True})
        _flush_to_disk(partial)
    except OSError as error:
        raise not_written(f"checkpoint '{final}'", partial, error) from error
    partial.rename(final)


def not_written(what: str, partial: Path, error: Exception) -> UserError:
    """What to raise when a folder could not be filled; the part that was written is removed.

    Each library reports a full disk differently, some unrecognizably.
    """
    disk = next(folder for folder in partial.absolute().parents if folder.is_dir())
    full = shutil.disk_usage(disk).free < 2**20
    shutil.rmtree(partial, ignore_errors=True)
    free = shutil.disk_usage(disk).free
    reason = "the disk is full" if full else next(iter(str(error).splitlines()), type(error).__name__)
    return UserError(
        f"{what} could not be written: {reason}", hint=f"{free / 1e6:,.0f} MB are free there. Make room, then --resume."
    )


def newest(run: Path) -> Checkpoint | None:
    """The newest checkpoint whose files are what was written; None if the run was stopped before its first one.

    Raises:
        UserError: if there are checkpoints and every one is damaged.
    """
    if (run / "checkpoints").exists() and not (run / "checkpoints").is_dir():
        raise UserError(f"'{run / 'checkpoints'}' is no folder, so no checkpoints can be read or written")
    found = all_of(run)
    reason = ""
    for folder in reversed(found):
        try:
            return read(folder)
        except DamagedError as error:
            reason = str(error)
            print(f"checkpoint {folder} is damaged ({reason}); trying the one before it")
    if found:
        raise UserError(
            f"every checkpoint in '{run / 'checkpoints'}' is damaged; of the oldest, {reason}",
            hint="Start the run again with --overwrite.",
        )
    return None


def read(folder: Path) -> Checkpoint:
    """What the manifest says, after comparing every file with it.

    Raises:
        DamagedError: it does not fit.
    """
    try:
        told = json.loads((folder / MANIFEST).read_text())
        seal = told.pop("sha256", None)
        files, step, state = dict(told["files"]), told["step"], dict(told["state"])
        lines, carried = told.get("lines"), tuple(told.get("carried", ()))
        lines = None if lines is None else {stream: int(count) for stream, count in dict(lines).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{MANIFEST} is missing or not whole") from error
    if (seal is not None and seal != _seal(told)) or not files or f"step_{step}" != folder.name:
        raise DamagedError(f"{MANIFEST} is not what was written")
    for name, wanted in files.items():
        _compare(folder, name, wanted)
    return Checkpoint(
        folder,
        step,
        state,
        lines,
        carried,
        told.get("evaluated", True),
        told.get("origin", False),
    )


def load(accelerator: Accelerator, checkpoint: Checkpoint) -> None:
    """Restore weights and optimizer."""
    try:
        accelerator.load_state(str(checkpoint.path))
    except Exception as error:  # of as many kinds as there are things that may not fit
        raise UserError(
            f"checkpoint '{checkpoint.path}' does not fit this run: {next(iter(str(error).splitlines()), '')}",
            hint="Its model and optimizer must be those of the run that wrote it.",
        ) from error


def restore_carried(checkpoint: Checkpoint, run: Path, names: Sequence[str]) -> None:
    """Put the checkpoint's copies of `names` into the run directory; one that it does not have is of a later step."""
    for name in names:
        (run / name).unlink(missing_ok=True)
        if name in checkpoint.carried:
            _link(checkpoint.path / name, run / name)


def remove_partial(run: Path) -> None:
    """What a process left that was killed while it wrote or removed a checkpoint."""
    for pattern in (".partial_step_*", ".removed_step_*"):
        for folder in (run / "checkpoints").glob(pattern):
            shutil.rmtree(folder, ignore_errors=True)


def all_of(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first. A folder of another name is somebody's own."""
    folder = run / "checkpoints"
    found = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted((path for path in found if _NAME.fullmatch(path.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The steps that were done when it was written."""
    return int(checkpoint.name.removeprefix("step_"))


def _remove(folder: Path) -> None:
    """Under another name first: a kill in the middle leaves no half of a checkpoint."""
    if folder.exists():
        removed = folder.with_name(f".removed_{folder.name}")
        shutil.rmtree(removed, ignore_errors=True)
        folder.rename(removed)
        shutil.rmtree(removed)


def _write_manifest(folder: Path, told: Mapping[str, Any]) -> None:
    (folder / MANIFEST).unlink(missing_ok=True)
    names = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": _digest(folder / name)} for name in names}
    told = json.loads(json.dumps({**told, "files": files}))  # as it will be read
    (folder / MANIFEST).write_text(json.dumps({**told, "sha256": _seal(told)}, indent=1))


def _compare(folder: Path, name: str, wanted: Any) -> None:
    size = wanted["bytes"] if isinstance(wanted, dict) else wanted  # early manifests know sizes alone
    try:
        if (folder / name).stat().st_size != size:
            raise DamagedError(f"{name} is cut short or too long")
        if isinstance(wanted, dict) and _digest(folder / name) != wanted["sha256"]:
            raise DamagedError(f"{name} is not what was written")
    except OSError as error:
        raise DamagedError(f"{name} is missing or cannot be read") from error


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _seal(told: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _link(source: Path, target: Path) -> None:
    """A second name for the same content, which is replaced and never written into; a copy where there are no links."""
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copy2(source, target)


def _flush_to_disk(folder: Path) -> None:
    """A rename may reach the disk before what it names: force the contents out first."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
