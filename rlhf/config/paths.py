"""File names as the user writes them: `~` is the home folder, every other letter is itself."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from rlhf.errors import UserError

LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes, on Linux and macOS


def home(name: str) -> str:
    """`~/runs` and `~somebody/runs` as the shell reads them; any other name as it is.

    A shell does this for a word that begins with `~`, but not behind `=`, inside quotes or in a file.
    """
    return os.path.expanduser(name) if name.startswith("~") else name


def path_name(name: str) -> str:
    """A name that a user gave to a file, folder, model or data set, with `~` read as `home` does.

    Raises:
        ValueError: it is empty (which the system takes for the current folder), too long, or of the home of nobody.
    """
    if not name.strip():
        raise ValueError("the name is empty")
    if "\0" in name:
        raise ValueError("a name holds no null character")
    found = home(name)
    if found.startswith("~"):
        raise ValueError(f"there is no user {found.partition('/')[0]!r}; ./{found} is the file of that name")
    encoded = os.fsencode(found)
    if len(encoded) > LONGEST_PATH or max(map(len, encoded.split(b"/"))) > LONGEST_NAME:
        raise ValueError(f"the name {found[:40]}... is too long for a file")
    return found


def user_path(name: str) -> Path:
    """The type of a path on a command line: `parser.add_argument("--output", type=user_path)`."""
    try:
        return Path(path_name(name))
    except ValueError as error:
        raise UserError(f"command line: {name[:60]!r} is no path: {error}") from error


def seen_from_here(path: Path) -> Path:
    """A path in the current folder relative to it; any other as it is."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def numbered(name: str, number: int) -> Path:
    """The directory of the run that gets that name as the first, second, third ...: runs/a, runs/a-2, runs/a-3."""
    return Path(name if number == 1 else f"{name}-{number}")


def numbered_runs(name: str) -> list[Path]:
    """Those of them that hold a run."""
    found = []
    while ((path := numbered(name, len(found) + 1)) / "config.yaml").is_file():
        found.append(path)
    return found


def refuse_strangers(output: Path, beginning: bytes, what: str) -> None:
    """See that a file which is to be replaced is of the kind that replaces it, which `beginning` tells.

    Raises:
        UserError: it is something else.
    """
    if output.is_dir():
        raise UserError(f"'{output}' is a folder, wanted the name of a file")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"'{output}' cannot be written: {error.strerror}: '{error.filename}'") from error
    if not os.access(output.parent, os.W_OK):
        raise UserError(f"'{output}' cannot be written: nothing can be written into '{output.parent}'")
    if not (output.exists() or output.is_symlink()):
        return
    if output.is_file():
        with output.open("rb") as there:
            if there.read(len(beginning)) in (beginning, b""):
                return
    raise UserError(f"'{output}' is there already, and no {what}", hint="Remove it, or write elsewhere.")


PathName = Annotated[str, AfterValidator(path_name)]  # a config key that names a file, folder, model or data set
