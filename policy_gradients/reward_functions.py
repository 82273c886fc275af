"""Reward components of the user: functions in Python files, loaded and checked before any model is loaded."""

import inspect
import math
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from importlib.util import module_from_spec, spec_from_file_location
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from rlhf.data.columns import short
from rlhf.errors import UserError, nearest

UserFunction = Callable[[str, str, str], Any]  # question, completion, answer -> a number
ARGUMENTS = "question, completion, answer"
SHOWN = 80  # characters of a completion in a message
_modules: dict[tuple[Path, int], ModuleType] = {}  # by file and time of change, so that a file runs once


@dataclass(frozen=True)
class UserComponent:
    """One function, `file.py:name`, with its weight in the sum."""

    file: str
    name: str
    function: UserFunction
    weight: float

    def __call__(self, question: str, completion: str, answer: str) -> float:
        """The function's number.

        Raises:
            UserError: it raises, whatever it is, or returns no finite number.
        """
        try:
            with unchanged():
                value = self.function(question, completion, answer)
                number = as_number(value)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # sys.exit too: a reward function does not end a run without a word
            raise UserError(
                f"reward_functions: {self.name} in {self.file}{_line(error, self.file)} raised "
                f"{_text(error)} for the completion {_shown(completion)}"
            ) from error
        if number is None:
            raise UserError(
                f"reward_functions: {self.name} returned {short(value)} for the completion {_shown(completion)}, "
                f"wanted a finite number ({self.file})"
            )
        return number


def load_functions(weights: Mapping[str, float]) -> dict[str, UserComponent]:
    """The functions of `reward_functions` by name.

    Raises:
        UserError: as `load_function`.
    """
    return {
        name: UserComponent(spec.rpartition(":")[0], name, load_function(spec), weight)
        for name, (spec, weight) in zip(names_of(weights), weights.items(), strict=True)
    }


def names_of(functions: Iterable[str]) -> list[str]:
    return [spec.rsplit(":", 1)[-1] for spec in functions]


def load_function(spec: str) -> UserFunction:
    """`file.py:function`.

    Raises:
        UserError: there is no such file or function, the file does not run, or the function cannot be called with
            (question, completion, answer).
    """
    file, _, name = spec.rpartition(":")
    path = Path(file).expanduser()
    if not name or path.suffix != ".py":
        raise UserError(f"reward_functions: '{spec}' is not of the form file.py:function")
    if not path.is_file():
        raise UserError(f"reward_functions: there is no file '{file}'")
    module = _module(path, file)
    function = getattr(module, name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"reward_functions: {file} has no function '{name}': {nearest(name, functions)}")
    _refuse_uncallable(function, name, file)
    return function


def as_number(value: object) -> float | None:
    """A finite number as a float: Python's, numpy's, or a tensor's or array's only element. None for anything else."""
    item = getattr(value, "item", None)
    try:
        plain = item() if callable(item) else value
        number = float(plain) if isinstance(plain, Real | Decimal) else math.nan
    except (ValueError, TypeError, OverflowError, RuntimeError):
        return None
    return number if math.isfinite(number) else None


@contextmanager
def unchanged() -> Generator[None]:
    """Leave the process as it was, whatever another's code sets in it: the folder that files are written into, whether
    there are gradients, the type of new tensors. Training draws no random numbers of the process, so these are free."""
    folder, gradient, kind = os.getcwd(), torch.is_grad_enabled(), torch.get_default_dtype()
    try:
        yield
    finally:
        os.chdir(folder)
        torch.set_grad_enabled(gradient)
        torch.set_default_dtype(kind)


def _module(path: Path, file: str) -> ModuleType:
    key = (path.resolve(), path.stat().st_mtime_ns)
    if key in _modules:
        return _modules[key]
    spec = spec_from_file_location(f"reward_functions.{path.stem}", path)
    assert spec is not None  # of a .py file there is always one
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses and pickle look themselves up there
    try:
        with unchanged(), warnings.catch_warnings():
            spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UserError(f"reward_functions: {file}{_line(error, file)} does not run: {_text(error)}") from error
    _modules[key] = module
    return module


def _refuse_uncallable(function: UserFunction, name: str, file: str) -> None:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # some that are written in C have none
        return
    try:
        signature.bind("question", "completion", "answer")
    except TypeError as error:
        raise UserError(
            f"reward_functions: {name} in {file} takes {signature}, wanted ({ARGUMENTS}): {error}"
        ) from error
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise UserError(f"reward_functions: {name} in {file} is asynchronous or a generator, wanted a plain function")


def _line(error: BaseException, file: str) -> str:
    """', line 3' of the file, where the traceback knows it."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f", line {error.lineno},"
    path = Path(file).expanduser().resolve()
    lines = [it.lineno for it in traceback.extract_tb(error.__traceback__) if Path(it.filename).resolve() == path]
    return f", line {lines[-1]}," if lines else ""


def _text(error: BaseException) -> str:
    try:
        first = next(iter(str(error).splitlines()), "")
    except Exception:  # of an exception whose own text fails
        first = ""
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _shown(completion: str) -> str:
    return repr(completion if len(completion) <= SHOWN else completion[:SHOWN] + "...")
