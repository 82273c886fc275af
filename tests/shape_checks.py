"""Every signature is checked while tests run: jaxtyping and beartype, at a cost that the whole suite can bear.

`install` puts both in front of what is imported from then on. Two things keep the cost low:

- A function gets its checks when it is first called, since making them takes longer than most calls.
- Of the calls of a function within one test, the first `FIRST` are checked, and then one in `THEN_ONE_IN`: inner loops
  make thousands of calls with the same annotation, and a check takes as long as an operation on a tiny tensor.
  Of a function that another one makes anew at each of its own calls, with new checks, the first `FIRST_OF_INNER`.
"""

import dataclasses
import functools
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from typing import Any
from unittest.mock import patch

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping._import_hook import _JaxtypingFinder

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "rlhf",
    "policy_gradients",
    "reward_models",
    "direct_alignment",
    "instruction_tuning",
    "rejection_sampling",
    "distillation",
    "pipeline",
    "claims",
)
# Every module is checked but these: pydantic reads the annotations of configs itself; the others hold no tensors.
UNCHECKED_FOLDERS = ("config", "report", "run")
UNCHECKED_FILES = ("api", "config", "output", "train", "compare", "evaluate", "score", "sample", "sample_pairs")
CHECKED = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for package in PACKAGES
    for file in sorted((ROOT / package).rglob("*.py"))
    if not file.stem.startswith(("__", "train_"))
    and file.stem not in UNCHECKED_FILES
    and not {*file.relative_to(ROOT).parts} & {*UNCHECKED_FOLDERS}
]
FIRST, THEN_ONE_IN, FIRST_OF_INNER = 100, 10, 3
calls: Counter[CodeType] = Counter()  # in this test

int_for_float = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is accepted where a float is wanted
checked_at_once = jaxtyping.jaxtyped(typechecker=int_for_float)


def install() -> None:
    """Check the signatures of the modules of `CHECKED`, which must not be imported yet."""
    jaxtyping.jaxtyped = lambda *, typechecker: checked  # ty: ignore[invalid-assignment] - what the hook decorates with
    jaxtyping.install_import_hook(CHECKED, "shape_checks.int_for_float")


@contextmanager
def left_out() -> Generator[None]:
    """What is imported meanwhile is not checked: a module that is loaded again, whose classes beartype takes for those
    of the first time."""
    with patch.object(sys, "meta_path", [it for it in sys.meta_path if not isinstance(it, _JaxtypingFinder)]):
        yield


@contextmanager
def switched_off() -> Generator[None]:
    """For runs whose every step other tests check."""
    with patch.object(sys.modules[__name__], "is_due", lambda number, *, inner: False):
        yield


def is_due(number: int, *, inner: bool) -> bool:
    """Whether a function's call of this number, within a test, is checked."""
    return number <= FIRST_OF_INNER if inner else number <= FIRST or number % THEN_ONE_IN == 0


def checked[T](target: T) -> T:
    """A function whose calls are checked, or a dataclass whose values are."""
    if not inspect.isclass(target):
        return checked_when_called(target)
    if dataclasses.is_dataclass(target) and "__init__" in vars(target):
        target.__init__ = checked_when_called(target.__init__)
    return target


def checked_when_called(function: Callable[..., Any]) -> Any:
    code = function.__code__
    inner = "<locals>" in function.__qualname__
    with_checks: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        calls[code] += 1
        if not is_due(calls[code], inner=inner):
            return function(*arguments, **named)
        if not with_checks:
            with_checks.append(checked_at_once(function))
        return with_checks[0](*arguments, **named)

    return call
