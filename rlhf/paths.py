"""File names as the user writes them: `~` is the home folder, every other letter is itself."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

LONGEST = 255  # bytes in the name of a file or folder, on the usual file systems


def home(name: str) -> str:
    """`~/runs` and `~somebody/runs` as the shell reads them; any other name as it is.

    A shell does this for a word that begins with `~`, but not behind `=`, inside quotes or in a file.
    """
    return os.path.expanduser(name) if name.startswith("~") else name


def user_path(name: str) -> Path:
    """The type of a path on a command line: `parser.add_argument("--output", type=user_path)`."""
    return Path(home(name))


def _file_name(name: str) -> str:
    """`home`, of a name that a file can have.

    Raises:
        ValueError: no file can have it.
    """
    if "\0" in name or any(len(part.encode(errors="replace")) > LONGEST for part in name.split("/")):
        raise ValueError(f"wanted a name of at most {LONGEST} bytes between slashes and without the character 0")
    return home(name)


PathName = Annotated[
    str, AfterValidator(_file_name)
]  # the type of a config key that names a file, folder, model or data set
