"""One run directory, one writer: a file that names the process which writes there."""

import errno
import json
import os
import socket
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from rlhf import system
from rlhf.errors import UserError
from rlhf.run.directory import LOCK as NAME

LONGEST = 10_000  # characters of a lock that are read
SAME_START_S = 5  # two readings of a process's start differ by less, even when the clock is set meanwhile


class Lock:
    """Held from `take` to `release`. A process that is killed leaves the file behind; the next one takes it over."""

    def __init__(self, folder: Path, owner: dict[str, Any], took_over: dict[str, Any] | None):
        self.file, self.owner, self.took_over = folder / NAME, owner, took_over

    def release(self) -> None:
        with suppress(OSError):
            if _read(self.file) == self.owner:
                self.file.unlink()


def take(folder: Path) -> Lock:
    """Become the only writer of `folder`, which exists.

    The file is looked at and written under flock, so that of two processes that find a dead owner one gets it.

    Raises:
        UserError: another process that is alive, or that cannot be seen from this host, writes there; or its place
            is taken by a link, a folder or a pipe.
    """
    file, owner = folder / NAME, _this_process()
    while True:
        with os.fdopen(_open(file), "r+", errors="replace") as opened:
            system.lock(opened.fileno())
            if not _is_still(file, opened.fileno()):
                continue  # its owner has just removed it
            before = _parse(opened.read(LONGEST))
            if before is not None:
                _refuse_living(before, folder)
            opened.seek(0)
            opened.truncate()
            opened.write(json.dumps(owner))
        return Lock(folder, owner, before)


def _open(file: Path) -> int:
    """The lock as a file descriptor: a file of its own, not what a link leads to, nor a pipe."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | system.OWN_FILE, 0o644)
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.ELOOP, errno.ENXIO):
            raise _not_ours(file) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_ours(file)
    return descriptor


def _not_ours(file: Path) -> UserError:
    return UserError(
        f"'{file}' is not what a run writes, so it cannot be seen whether another process writes there",
        hint="If none does, remove it.",
    )


def describe(owner: dict[str, Any]) -> str:
    return f"process {owner['pid']} on {owner['host']}"


def _refuse_living(owner: dict[str, Any], folder: Path) -> None:
    if owner["host"] != socket.gethostname():
        raise UserError(
            f"the run '{folder}' is in use by {describe(owner)}, another host, so it cannot be seen whether it lives",
            hint=f"If that process has ended, remove '{folder / NAME}'.",
        )
    if _lives(owner):
        raise UserError(
            f"the run '{folder}' is in use by {describe(owner)}",
            hint="Wait for it, stop it, or write elsewhere with --output_dir DIR.",
        )


def _lives(owner: dict[str, Any]) -> bool:
    """Whether that very process is there: a later one may have got its number."""
    try:
        process = psutil.Process(owner["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(process.create_time() - owner["started"]) < SAME_START_S
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True  # somebody else's, which may not be looked at


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    started = psutil.Process(pid).create_time()
    return {"pid": pid, "host": socket.gethostname(), "started": started, "command": sys.argv[0]}


def _is_still(file: Path, descriptor: int) -> bool:
    try:
        return file.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _read(file: Path) -> dict[str, Any] | None:
    try:
        return _parse(file.read_text())
    except OSError:
        return None


def _parse(text: str) -> dict[str, Any] | None:
    """The owner; None where that is not what the text says: nothing, if a process was killed before it wrote it."""
    try:
        owner = json.loads(text)
        numbers = type(owner["pid"]) is int and owner["pid"] > 0 and isinstance(owner["started"], float)
        valid = numbers and isinstance(owner["host"], str)
    except (ValueError, TypeError, KeyError):
        return None
    return owner if valid else None
