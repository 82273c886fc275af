"""Objects of a Python program that a config can only name: `python:NAME`.

A config is text, so that a run can say what it was made with. A function or a model that a program hands over has a
name in it, and the object itself is here for as long as the run takes. Light: nothing here loads PyTorch.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from rlhf.errors import UserError

PREFIX = "python:"
_handed_over: dict[str, Any] = {}


def is_live(name: str) -> bool:
    """Whether a setting names an object of a program."""
    return name.startswith(PREFIX)


@contextmanager
def handed_over(objects: Mapping[str, Any]) -> Generator[None]:
    """For a block, these objects are found by their names, each of which begins with `python:`."""
    before = dict(_handed_over)
    _handed_over.update(objects)
    try:
        yield
    finally:
        _handed_over.clear()
        _handed_over.update(before)


def taken(name: str, *, key: str) -> Any:
    """The object of that name.

    Args:
        key: of the setting that names it, for messages.

    Raises:
        UserError: no program has handed it over here.
    """
    if name not in _handed_over:
        raise UserError(
            f"{key}: '{name}' is an object of a Python program, and only that program has it",
            hint="Call run(...) there, with the same objects and resume=True to continue a run.",
        )
    return _handed_over[name]
