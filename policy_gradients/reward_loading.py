"""From a name to a reward function: `file.py:function` or `package.module:function`, found, run and looked at."""

import inspect
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from rlhf.config.live import is_live, taken
from rlhf.errors import UserError, nearest
from rlhf.judges.config import is_file, read_rubric

ONE, BATCH = "completion", "completions"  # the parameter that says which form a function has
FORMS = "(prompt, completion, ...) for one completion, or (prompts, completions, ...) for a batch"
_modules: dict[tuple[Path, int], ModuleType] = {}  # by file and time of change, so that a file runs once


def load_function(spec: str) -> Callable[..., Any]:
    """`file.py:function` or `package.module:function`, or `python:function` of the program that called the run.

    Raises:
        UserError: there is no such file, module or function, it does not run, or the function has neither form.
    """
    source, _, name = spec.rpartition(":")
    if is_live(spec):
        function = taken(spec, key="reward_functions")
        _refuse_other_form(function, name, "the program")
        return function
    if not source or not name.isidentifier():
        raise UserError(f"reward_functions: '{spec}' is not of the form file.py:function or package.module:function")
    module = _module_of_file(source) if source.endswith(".py") else _module_by_name(source, spec)
    function = getattr(module, name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"reward_functions: {source} has no function '{name}': {nearest(name, functions)}")
    _refuse_other_form(function, name, source)
    return function


def judge_models(specs: Iterable[str]) -> list[str]:
    """The models that the rubrics among `reward_functions` load here."""
    rubrics = [read_rubric(spec, key="reward_functions") for spec in specs if is_file(spec)]
    return [rubric.model for rubric in rubrics if rubric.url is None]


@contextmanager
def unchanged() -> Generator[None]:
    """Leave the process as it was, whatever another's code sets in it: the folder that files are written into, whether
    there are gradients, the type of new tensors. Training draws no random numbers of the process, so these are free."""
    folder, torch = os.getcwd(), sys.modules.get("torch")  # a command looks at functions before it loads PyTorch
    before = (torch.is_grad_enabled(), torch.get_default_dtype()) if torch else None
    try:
        yield
    finally:
        os.chdir(folder)
        if torch := sys.modules.get("torch"):
            gradient, kind = before or (True, torch.float32)
            torch.set_grad_enabled(gradient)
            torch.set_default_dtype(kind)


def _module_by_name(name: str, spec: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"reward_functions: '{spec}' is not of the form file.py:function or package.module:function")
    try:
        with unchanged(), warnings.catch_warnings():
            return import_module(name)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UserError(
                f"reward_functions: there is no module '{error.name}'",
                hint="A file is named with its ending: path/to/file.py:function.",
            ) from error
        raise UserError(f"reward_functions: {name} does not run: {text_of_error(error)}") from error
    except BaseException as error:
        raise UserError(f"reward_functions: {name} does not run: {text_of_error(error)}") from error


def _module_of_file(file: str) -> ModuleType:
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(
            f"reward_functions: there is no file '{file}'", hint=f"A path is relative to where you are: {Path.cwd()}."
        )
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
        raise UserError(
            f"reward_functions: {file}{line_in(error, file)} does not run: {text_of_error(error)}"
        ) from error
    _modules[key] = module
    return module


def _refuse_other_form(function: Callable[..., Any], name: str, source: str) -> None:
    """The forms are told apart by the names of parameters; a function that takes anything is given a batch."""
    try:
        parameters = inspect.signature(function).parameters
    except (ValueError, TypeError) as error:  # some that are written in C have none
        raise UserError(f"reward_functions: {name} in {source} does not say what it takes; wanted {FORMS}") from error
    kinds = {parameter.kind for parameter in parameters.values()}
    asks = {ONE, BATCH} & parameters.keys()
    if len(asks) != 1 and (asks or inspect.Parameter.VAR_KEYWORD not in kinds):
        raise UserError(f"reward_functions: {name} in {source} takes {inspect.signature(function)}, wanted {FORMS}")
    if inspect.Parameter.POSITIONAL_ONLY in kinds:
        raise UserError(f"reward_functions: {name} in {source} takes arguments by place alone; they are given by name")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UserError(f"reward_functions: {name} in {source} is a generator, wanted a function that returns")


def line_in(error: BaseException, file: str) -> str:
    """', line 3' of the file, where the traceback knows it."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f", line {error.lineno},"
    path = Path(file).expanduser().resolve()
    lines = [it.lineno for it in traceback.extract_tb(error.__traceback__) if Path(it.filename).resolve() == path]
    return f", line {lines[-1]}," if lines else ""


def text_of_error(error: BaseException) -> str:
    try:
        first = next(iter(str(error).splitlines()), "")
    except Exception:  # of an exception whose own text fails
        first = ""
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
