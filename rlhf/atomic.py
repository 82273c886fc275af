"""Files that are replaced as a whole: a full disk or a kill leaves the file as it was."""

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_whole(path: Path, content: str | bytes, *, shared: bool = False) -> None:
    """Write a file under another name in the same folder, then rename it; see `replacing`."""
    with replacing(path, shared=shared) as partial:
        if isinstance(content, str):
            partial.write_text(content, encoding="utf-8")
        else:
            partial.write_bytes(content)


@contextmanager
def replacing(path: Path, *, shared: bool = False) -> Generator[Path]:
    """Another name in the same folder: what the block writes there takes the file's place at its end.

    Args:
        shared: several processes may write this file at once, so the other name has the process's number.

    Raises:
        OSError: it cannot be written; `filename` is `path`.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}" if shared else f".partial_{path.name}")
    try:
        yield partial
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
