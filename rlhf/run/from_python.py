"""Runs that a Python program calls: keyword settings become the command line of the same command; errors are raised.

One way through, `command line -> config -> train`, for both. Objects that no command line can hold go beside it: lists
of rows as a file in the cache, functions and models by a name (see `rlhf.config.live`). Light until a run is called.
"""

import json
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.config.command import Command
from rlhf.config.command_line import SWITCHES
from rlhf.config.keys import all_keys, flatten
from rlhf.config.live import PREFIX, handed_over
from rlhf.config.schema import Config
from rlhf.config.trainer import TrainerConfig
from rlhf.errors import UserError
from rlhf.run.command import make_run
from rlhf.run.directory import with_free_directory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rlhf.run.result import RunResult

type Model = "str | os.PathLike[str] | PreTrainedModel"  # a Hub id, a folder, a run directory, or the model itself
type Rows = "str | os.PathLike[str] | Iterable[Mapping[str, Any]]"  # a Hub id, a file, a folder, or the rows themselves

FOR_COMMANDS = ("plan", "show_config", "debug")  # switches that a program does not have


def call[ConfigT: TrainerConfig](
    read: Callable[[Sequence[str]], Command[ConfigT]],
    train: "Callable[[Command[ConfigT]], RunResult]",
    look: Callable[[ConfigT], None],
    config_class: type[ConfigT],
    settings: Mapping[str, Any],
    *,
    model: "Model | None",
    tokenizer: "PreTrainedTokenizerBase | None",
    quiet: bool,
    functions: Mapping[str, Callable[..., Any]] | None = None,
) -> "RunResult":
    """Make a run.

    Args:
        read: from a command line to the command.
        train: makes the run of a command.
        look: looks at what a config names, before PyTorch is loaded.
        settings: of the config by name, groups as mappings, and the switches of a command (`resume=True`).
        model, tokenizer: a name, or the objects themselves, which stay as they are; None: what the config says.
        quiet: print nothing, the user's own functions included.
        functions: by name, `python:NAME`, as the settings have it.

    Raises:
        UserError: whatever the command would answer with a message.
        KeyboardInterrupt: the run was interrupted before its first step, and nothing is left of it.
    """
    if asked := [name for name in FOR_COMMANDS if settings.get(name)]:
        raise UserError(f"{asked[0]}: it belongs to the command line", f"python -m ... --{asked[0]}")
    objects: dict[str, Any] = dict(functions or {})
    given = dict(settings)
    if model is not None:
        given["model_name"], live = _named_model(model, tokenizer)
        objects |= live
    elif tokenizer is not None:
        raise UserError("tokenizer: it goes with a model that is handed over; a model's name brings its own")
    argv = to_argv(given, config_class)
    with ExitStack() as block:
        block.enter_context(handed_over(objects))
        block.enter_context(_one_run_of_a_process())
        if quiet:
            block.enter_context(redirect_stdout(block.enter_context(Path(os.devnull).open("w"))))
            argv.append("--quiet")
        return make_run(with_free_directory(replace(read(argv), called=True)), train, look)


def to_argv(settings: Mapping[str, Any], config_class: type[Config]) -> list[str]:
    """The command line that asks for these settings: `{"lr": 1e-5, "data": {"held_out": 9}, "resume": True}` is
    `--lr=1e-05 --data.held_out=9 --resume`."""
    argv = []
    for key, setting in flatten(settings, all_keys(config_class)).items():
        if key not in SWITCHES:
            argv.append(f"--{key}={_as_text(setting.value)}")
        elif setting.value:
            argv.append(f"--{key}")
    return argv


def _as_text(value: Any) -> str:
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    """What JSON has no word for: paths, sets and the numbers of numpy and torch."""
    if hasattr(value, "item"):
        return value.item()
    return os.fspath(value) if isinstance(value, os.PathLike) else list(value)


def as_path(rows: "Rows", *, key: str) -> str:
    """The name of a file with these rows, as `data.path` takes it; a name is itself.

    A list is written to a JSONL file in the cache, named by its content, so that it is read, checked and counted as any
    file is, and a run that is resumed finds it.

    Raises:
        UserError: there are no rows, or the file cannot be written.
    """
    if isinstance(rows, str | os.PathLike):
        return os.fspath(rows)
    from rlhf.cache import folder
    from rlhf.data.files import write_jsonl

    listed = list(rows)
    if not listed:
        raise UserError(f"{key}: there are no rows")
    try:
        text = json.dumps(listed, default=str, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}: the rows are not what a file can hold: {error}") from error
    file = folder() / "rows" / f"{sha256(text.encode()).hexdigest()[:16]}.jsonl"
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_jsonl(file, listed)
        except OSError as error:
            raise UserError(
                f"{key}: {file} cannot be written: {error.strerror}", hint="RLHF_CACHE names another folder."
            ) from error
    return str(file)


def data_of(rows: "Rows | None", settings: Mapping[str, Any], *, key: str) -> dict[str, Any]:
    """The settings of `data`, with the rows that were handed over as its path; none where there are no such rows."""
    return {} if rows is None else {"data": {**settings.get("data", {}), "path": as_path(rows, key=key)}}


def named_functions(
    given: "Callable[..., Any] | str | Sequence[Any] | Mapping[Any, float]",
) -> tuple[dict[str, float], dict[str, Callable[..., Any]]]:
    """Reward functions as `reward_functions` takes them, and the live ones among them by that name.

    Args:
        given: a function, a name (`file.py:function`), several of them, or a mapping of them to their weights.
    """
    several = given if isinstance(given, list | tuple) else [given]
    weights = dict(given) if isinstance(given, Mapping) else dict.fromkeys(several, 1.0)
    named: dict[str, float] = {}
    live: dict[str, Callable[..., Any]] = {}
    for function, weight in weights.items():
        name = function
        if not isinstance(function, str):
            own = getattr(function, "__name__", type(function).__name__)
            name = f"{PREFIX}{own if own.isidentifier() else 'reward'}"
            if name in live:
                raise UserError(f"reward: two functions have the name {name.removeprefix(PREFIX)}")
            live[name] = function
        named[str(name)] = weight
    return named, live


def _named_model(model: "Model", tokenizer: "PreTrainedTokenizerBase | None") -> tuple[str, dict[str, Any]]:
    if isinstance(model, str | os.PathLike):
        if tokenizer is not None:
            raise UserError("tokenizer: it goes with a model that is handed over; a model's name brings its own")
        return os.fspath(model), {}
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rlhf.models.live import LiveModel
    from rlhf.models.loading import find_model
    from rlhf.models.tokenizer import read_tokenizer

    _refuse_other_objects(model=(model, PreTrainedModel))
    if tokenizer is None:
        named = "tokenizer is not given, so that of model.name_or_path"
        tokenizer = read_tokenizer(find_model(str(model.name_or_path), key=named))
    _refuse_other_objects(tokenizer=(tokenizer, PreTrainedTokenizerBase))
    live = LiveModel(model, tokenizer)
    return live.name, {live.name: live}


def _refuse_other_objects(**given: tuple[Any, type]) -> None:
    """Raises: UserError, if something is not of its class."""
    for key, (value, wanted) in given.items():
        if not isinstance(value, wanted):
            merged = "A PEFT model is merged first: model.merge_and_unload()."
            raise UserError(
                f"{key} is a {type(value).__name__}; accepted: a {wanted.__name__} of transformers, or a name",
                hint=merged if hasattr(value, "peft_config") else None,
            )


@contextmanager
def _one_run_of_a_process() -> Generator[None]:
    """Accelerate keeps its first device and precision for the life of a process: another run may have others. And an
    interrupt before the first step is one of the program."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    from rlhf.run.interrupts import Stopped

    of_the_program = bool(PartialState._shared_state)  # it uses Accelerate itself
    try:
        yield
    except Stopped as stopped:
        raise KeyboardInterrupt from stopped
    finally:
        if not of_the_program and PartialState().num_processes == 1:
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
