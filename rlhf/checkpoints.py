"""Saving and resuming, so that a killed run ends as if it had never been.

A checkpoint is written beside its place and renamed into it, with a manifest of its files' sizes written last: what has
a complete manifest is a checkpoint. Everything random in a run is a function of (seed, step, index), so besides
weights, optimizer and a few numbers of the loop there is nothing to save.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError

from rlhf.errors import UserError

MANIFEST = "manifest.json"


def save(accelerator: Accelerator, run: Path, step: int, state: dict[str, Any], *, keep: int) -> Path:
    """Write `run/checkpoints/step_N`, in all processes together; then drop all but the newest `keep`."""
    final = run / "checkpoints" / f"step_{step}"
    partial = final.with_name(f".partial_step_{step}")
    try:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(partial))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            files = {str(f.relative_to(partial)): f.stat().st_size for f in partial.rglob("*") if f.is_file()}
            (partial / MANIFEST).write_text(json.dumps({"step": step, "state": state, "files": files}, indent=1))
            _flush_to_disk(partial)
    except Exception as error:
        raise not_written(f"checkpoint '{final}'", partial, error) from error
    if accelerator.is_main_process:
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in _all(run)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return final


def not_written(what: str, partial: Path, error: Exception) -> UserError:
    """What to raise when a folder could not be filled; the part that was written is removed.

    Libraries tell of a full disk each in words of its own, some of them in none that a person would recognize.
    """
    disk = next(folder for folder in partial.absolute().parents if folder.is_dir())
    full = shutil.disk_usage(disk).free < 2**20
    shutil.rmtree(partial, ignore_errors=True)
    free = shutil.disk_usage(disk).free
    reason = "the disk is full" if full else next(iter(str(error).splitlines()), type(error).__name__)
    return UserError(
        f"{what} could not be written: {reason}", hint=f"{free / 1e6:,.0f} MB are free there. Make room, then --resume."
    )


def newest(run: Path) -> Path | None:
    """The newest complete checkpoint; None if the run was stopped before its first one.

    Raises:
        UserError: if there are checkpoints and every one is damaged.
    """
    found = _all(run)
    for checkpoint in reversed(found):
        if is_complete(checkpoint):
            return checkpoint
        print(f"checkpoint {checkpoint} is damaged (files missing or cut short); trying the one before it")
    if found:
        raise UserError(
            f"every checkpoint in '{run / 'checkpoints'}' is damaged: files are missing or cut short",
            hint="Start the run again with --overwrite.",
        )
    return None


def is_complete(checkpoint: Path) -> bool:
    try:
        files = json.loads((checkpoint / MANIFEST).read_text())["files"]
        return all((checkpoint / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


def load(accelerator: Accelerator, checkpoint: Path) -> tuple[int, dict[str, Any]]:
    """Restore weights and optimizer; returns the number of steps done and the loop's own state."""
    try:
        accelerator.load_state(str(checkpoint))
    except (RuntimeError, ValueError, EOFError, KeyError, SafetensorError) as error:
        raise UserError(
            f"checkpoint '{checkpoint}' cannot be read: {str(error).splitlines()[0]}",
            hint="Remove that folder and --resume from the one before it, or start again with --overwrite.",
        ) from error
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    return manifest["step"], manifest["state"]


def _all(run: Path) -> list[Path]:
    """Oldest first."""
    return sorted((run / "checkpoints").glob("step_*"), key=lambda path: int(path.name.removeprefix("step_")))


def _flush_to_disk(folder: Path) -> None:
    """A rename may reach the disk before what it names: force the contents out first."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
