"""Output that cannot end a run: what a terminal cannot show is spelled out, what nobody reads is lost.

An ASCII terminal has no arrow, `| head -1` closes the pipe, a disk that a log is redirected to fills up. None of these
is a reason to lose a run of hours, so they are met where the bytes leave, below print, rich and every library.
"""

import io
import os
import select
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import TextIO


class _Lossy(io.FileIO):
    """A file whose writes always succeed: bytes that the system does not take are dropped."""

    def write(self, data, /) -> int:
        try:
            while (written := super().write(data)) is None:  # another program has made the pipe non-blocking
                select.select([], [self.fileno()], [])
        except BrokenPipeError:
            # Nobody reads any more: whatever else writes here, such as a child process, is to have no trouble either.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
        except OSError:
            pass  # no space, the terminal is gone
        else:
            return written
        return memoryview(data).nbytes


class _StaysOpen(io.TextIOWrapper):
    """Text to where the command writes: whoever closes it, the next line still has a place to go."""

    def close(self) -> None:
        with suppress(OSError, ValueError):
            self.flush()


def lossy(stream: TextIO) -> TextIO:
    """The same stream for text that always gets through. A stream without a file, as tests have, stays as it is."""
    with suppress(OSError, ValueError):
        stream.flush()
    try:
        raw = _Lossy(stream.fileno(), "wb", closefd=False)
    except (OSError, ValueError, AttributeError):
        return stream
    return _StaysOpen(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="backslashreplace",  # → is written as \u2192, and half an emoji as \ud83d
        newline="",
        line_buffering=getattr(stream, "line_buffering", True),
        write_through=getattr(stream, "write_through", False),
    )


@contextmanager
def output_always_gets_through() -> Generator[None]:
    """For the time of a command, sys.stdout and sys.stderr are `lossy`; afterwards nothing is left in a buffer."""
    before = sys.stdout, sys.stderr
    for name, stream in zip(("stdout", "stderr"), before, strict=True):
        if stream is not None:  # None: the file was closed before Python started
            setattr(sys, name, lossy(stream))
    ours = sys.stdout, sys.stderr
    try:
        yield
    finally:
        for own in ours:
            if own is not None:
                with suppress(OSError, ValueError):
                    own.flush()
        sys.stdout, sys.stderr = before
