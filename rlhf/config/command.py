"""From defaults, a YAML file, a profile, the environment and the command line to one validated config.

Every layer is flattened to dotted keys (`data.size`), each value carrying where it came from. Merging is then a dict
update, validation happens once, on the result, and an error can name the line that caused it:

    defaults in the code  <  YAML  <  profile block (`laptop:`, `gpu:`)  <  environment (W&B)  <  command line

Nothing here imports torch until a profile has to be chosen: `--help` must answer in well under a second.
"""

import argparse
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from rlhf.config.paths import PathName, home, user_path
from rlhf.errors import UserError, nearest
from rlhf.run.resuming import (
    MADE_BY_CHECKPOINT,
    MAY_CHANGE,
    differences,
    find_run,
    refuse_edited,
    refuse_other_settings,
)

PROFILES = ("laptop", "gpu")
GPU_PROFILE_GB = 12  # decimal, as on the box: a "12 GB" card reports a little less than 12 GiB
ENVIRONMENT = {
    "WANDB_PROJECT": "wandb_project",
    "WANDB_ENTITY": "wandb_entity",
    "WANDB_RUN_NAME": "wandb_run_name",
    "WANDB_MODE": "wandb_mode",
}
LARGEST_SEED = 2**32 - 1  # that numpy takes
COLDEST = 1e-3  # temperature of sampling; logits divided by much less are no numbers any more
LARGEST_WHOLE = 2**53  # beyond it floats, in which schedules and speeds are computed, skip numbers
LARGEST_FILE = 10**6  # bytes of a config file: /dev/zero never ends
DEEPEST = 32  # levels of a YAML value
MOST_VALUES = 10_000  # of a YAML text, with aliases written out
SWITCHES = {
    "resume": "continue the run in output_dir from its newest checkpoint, with its own settings; may change: "
    + ", ".join(MAY_CHANGE),
    "overwrite": "replace the run in output_dir once the new one can begin; what is not a run is left alone",
    "plan": "say what would run and what it needs, then stop",
    "show_config": "print every setting with its origin, then stop",
    "quiet": "no progress bar and no samples",
    "debug": "show tracebacks",
}

# ---------------------------------------------------------------------------------------------- what a config is


class Section(BaseModel):
    """A group of settings to nest in a Config. Strict: unknown keys, nan, inf, booleans for numbers, whole
    numbers that floats do not hold and text that UTF-8 does not hold are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="wrap")
    @classmethod
    def _what_can_be_kept(cls, given: object, validate: ValidatorFunctionWrapHandler) -> object:
        value = validate(given)
        if _bool_became_number(given, value):
            raise PydanticCustomError("bool_for_number", "a number, not true or false")
        for inner in _plain_values(value):
            if isinstance(inner, int) and abs(inner) > LARGEST_WHOLE:
                raise PydanticCustomError("too_large", "a whole number of at most 2**53")
            if isinstance(inner, str) and _NO_TEXT.search(inner):
                raise PydanticCustomError("no_text", "text without a null character or half a character")
        return value


class Config(Section):
    """Settings common to every command."""

    model_name: PathName = Field(
        "embedded", description="Model to train: 'embedded', a Hugging Face id, a local folder or a run directory."
    )
    max_steps: int = Field(gt=0, description="Number of optimizer steps.")
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="Seed of the data order, the sampling and the weights.")
    output_dir: PathName | None = Field(None, description="Run directory; null is runs/<config name>-seed<seed>.")
    wandb_project: str | None = Field(None, description="Weights & Biases project; null turns W&B off.")
    wandb_entity: str | None = Field(None, description="Weights & Biases user or team.")
    wandb_run_name: str | None = Field(None, description="Name of the run in Weights & Biases.")
    wandb_mode: Literal["online", "offline", "disabled"] = Field("online", description="Weights & Biases mode.")
    tensorboard: bool = Field(False, description="Also write TensorBoard event files into the run directory.")


@dataclass(frozen=True)
class Command[ConfigT: Config]:
    """What one invocation asks for: the validated config, where each value came from, and how to run it."""

    config: ConfigT
    origin: dict[str, str]  # dotted key -> "default", "configs/grpo.yaml:3", "environment WANDB_MODE", ...
    profile: str  # "laptop", "gpu", or "none" where the file has no profile blocks
    profile_reason: str
    resume: bool
    overwrite: bool
    plan: bool
    show_config: bool
    quiet: bool
    debug: bool
    trainer: str = ""  # the module of the command, such as "reward_models.train_orm"
    source: Path | None = None  # --fork: the run that this one starts from
    left_out: Mapping[str, str] = dataclass_field(
        default_factory=dict
    )  # key -> "value (origin)": see read_command's `void`


def read_command[ConfigT: Config](
    config_class: type[ConfigT],
    argv: list[str],
    *,
    prog: str,
    description: str,
    default_config: Path | None = None,
    environ: Mapping[str, str] | None = None,
    cuda_gb: Callable[[], float] | None = None,
    void: "_Void | None" = None,
    fill: Callable[[ConfigT], ConfigT] | None = None,
) -> Command[ConfigT]:
    """Read the command line `argv` (without the program name) into a Command, or raise a UserError.

    With --resume or --fork the run's own config takes the place of defaults, and only what the user asks for (a file
    named with --config, its profile block, the environment, the command line) is laid over it and compared.

    Args:
        prog: how the program is called, for --help: "python -m policy_gradients.train".
        default_config: the YAML file used when there is no --config.
        environ, cuda_gb: the environment, and the memory of the largest CUDA device in GB; tests replace them.
        void: (settings of a file, settings of the command line) -> keys of the file that do not hold beside those, and
            another name for the run if there are any.
        fill: gives settings that are null the values that they stand for.
    """
    keys = _keys(config_class)
    switches, command_line = _parse(_parser(config_class, prog, description), argv, keys)
    file = default_config if switches["config"] is None else user_path(switches["config"])
    yaml_layer, blocks = _read_file(file, keys) if file else ({}, {})
    environment = _environment(keys, os.environ if environ is None else environ)
    _refuse_unknown(keys, [yaml_layer, *blocks.values(), command_line])
    trainer = prog.split()[-1] if prog else ""
    choose = partial(_choose_profile, blocks=blocks, cuda_gb=cuda_gb or largest_cuda_gb)
    asked = _Asked(
        config_class, keys, switches, trainer, file, yaml_layer, blocks, environment, command_line, choose, void
    )
    for option in ("resume", "fork"):
        if switches[option]:
            return _continued(asked, option, fill)
    return _new(asked)


def to_yaml(config: Config) -> str:
    """The flat, resolved config as YAML; read through --config it gives an equal config."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def show(command: Command) -> str:
    """Every setting with where it came from, one a line: the answer to --show_config, and a config file itself."""
    settings = _flatten(command.config.model_dump(), _keys(type(command.config)))
    lines = {key: f"{key}: {_text(setting.value)}" for key, setting in settings.items()}
    width = min(48, max(map(len, lines.values())))
    origins = [f"{line:<{width}}  # {command.origin[key]}" for key, line in lines.items()]
    return "\n".join([f"# profile {command.profile}: {command.profile_reason}", *origins])


# ---------------------------------------------------------------------------------------------- a new run, a known one

type _Void = Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[Collection[str], str | None]]


@dataclass(frozen=True)
class _Asked[ConfigT: Config]:
    """All that one invocation says, layer by layer."""

    config_class: type[ConfigT]
    keys: "dict[str, _Key]"
    switches: dict[str, Any]
    trainer: str
    file: Path | None
    yaml: "_Layer"
    blocks: "dict[str, _Layer]"
    environment: "_Layer"
    command_line: "_Layer"
    choose_profile: Callable[[str], tuple[str, str]]
    void: _Void | None

    def holding(self, layer: "_Layer") -> "tuple[_Layer, _Layer, str | None]":
        """Of a file's settings those that hold, those that do not, and the run's name for that."""
        values, given = ({k: it.value for k, it in some.items()} for some in (layer, self.command_line))
        gone, name = self.void(values, given) if self.void else ((), None)
        kept = {k: it for k, it in layer.items() if k not in gone}
        return kept, {k: it for k, it in layer.items() if k in gone and it.value is not None}, name

    def from_file(self, profile: str) -> "tuple[_Layer, _Layer, str | None]":
        layer = dict(self.yaml)
        _overlay(layer, self.blocks.get(profile, {}))
        return self.holding(layer)

    def place(self, settings: "_Layer", name: str | None) -> str:
        """The run directory that is asked for, or the one that it has by default."""
        given = settings.get("output_dir")
        if given and given.value is not None:
            return home(str(given.value))
        seed = settings["seed"].value if "seed" in settings else 0
        return f"runs/{name or (self.file.stem if self.file else self.trainer)}-seed{seed}"

    def command(self, config: ConfigT, settings: "_Layer", profile: str, reason: str, **more: Any) -> Command[ConfigT]:
        flat = _flatten(config.model_dump(), self.keys)
        origin = {key: settings.get(key, default).origin for key, default in flat.items()}
        switches = {name: self.switches[name] for name in SWITCHES}
        return Command(config, origin, profile, reason, **switches, trainer=self.trainer, **more)


def _new[ConfigT: Config](asked: _Asked[ConfigT]) -> Command[ConfigT]:
    profile, reason = asked.choose_profile(asked.switches["profile"])
    settings = _flatten(_defaults(asked.config_class), asked.keys)
    from_file, left_out, name = asked.from_file(profile)
    for layer in (from_file, asked.environment, asked.command_line):
        _overlay(settings, layer)
    config = _validate(asked.config_class, settings, asked.keys)
    if config.output_dir is None:
        config = config.model_copy(update={"output_dir": asked.place(settings, name)})
    told = {key: f"{_text(it.value)} ({it.origin})" for key, it in left_out.items()}
    return asked.command(config, settings, profile, reason, left_out=told)


def _continued[ConfigT: Config](
    asked: _Asked[ConfigT], option: str, fill: Callable[[ConfigT], ConfigT] | None
) -> Command[ConfigT]:
    """The run's own config, and what the user asks for over it: a file or a profile chosen by default is not asked."""
    switches, keys = asked.switches, asked.keys
    if switches["resume"] and (other := next((it for it in ("fork", "overwrite") if switches[it]), None)):
        raise UserError(f"--resume and --{other}: one of them", "--resume goes on in the same directory and keeps it.")
    path = Path(asked.place(*_place_of_known(asked)))
    told = find_run(path, option=option, trainer=asked.trainer)
    recorded = str(told.get("profile") or "")
    file = path / "config.yaml"
    tree, lines = _load(_read_bytes(file), str(file))
    own = _flatten(tree, keys, lambda key: f"{file}:{lines[key]}")
    _refuse_unknown(keys, [own])
    settings = _flatten(_defaults(asked.config_class), keys)
    _overlay(settings, own)
    run = _validate(asked.config_class, settings, keys)
    if option == "resume":
        refuse_edited(file, told.get("settings"), run.model_dump(mode="json"))
    if option == "fork":
        settings = _flatten(_defaults(asked.config_class), keys)
        _overlay(settings, asked.holding(own)[0])
    refused = []
    wanted = switches["profile"]
    if switches["config"] is not None:
        known = wanted == "auto" and recorded in asked.blocks
        _overlay(settings, asked.from_file(recorded if known else asked.choose_profile(wanted)[0])[0])
    elif wanted not in ("auto", recorded) and recorded in PROFILES:
        refused.append(f"profile is {recorded} in the run, {wanted} is asked for (command line)")
    for layer in (asked.environment, asked.command_line):
        _overlay(settings, layer)
    config = _validate(asked.config_class, settings, keys)
    changed = _changes(run, config, keys, fill)
    for key, (old, new) in changed.items():
        fixed = key not in MAY_CHANGE if option == "resume" else key.split(".")[0] in MADE_BY_CHECKPOINT
        if fixed:
            origin = settings[key].origin if key in settings else "default"
            refused.append(f"{key} is {_text(old)} in the run, {_text(new)} is asked for ({origin})")
    refuse_other_settings(option, path, refused)
    if option == "fork":
        config = config.model_copy(update={"output_dir": str(switches["fork"])})
        return asked.command(config, settings, recorded, "that of the run", source=path)
    config = run.model_copy(update={**{key: new for key, (_, new) in changed.items()}, "output_dir": str(path)})
    return asked.command(config, settings, recorded, "that of the run")


def _place_of_known(asked: _Asked) -> "tuple[_Layer, str | None]":
    """The settings that say where the run is, and its name: those of its start, where the same are given again."""
    known = asked.switches["profile"] in asked.blocks
    from_file, _, name = asked.from_file(asked.switches["profile"] if known else "")
    return {**from_file, **asked.command_line}, name


def _changes[ConfigT: Config](
    run: ConfigT, config: ConfigT, keys: "dict[str, _Key]", fill: Callable[[ConfigT], ConfigT] | None
) -> dict[str, tuple[Any, Any]]:
    """Keys in which two configs differ, with both values. null is the value that it stands for."""

    def values(it: ConfigT) -> dict[str, Any]:
        return {key: setting.value for key, setting in _flatten(it.model_dump(mode="json"), keys).items()}

    changed = differences(values(run), values(config))
    nulls = {key: None for key, (_, new) in changed.items() if new is None and key in type(run).model_fields}
    if nulls and fill:
        filled = values(fill(run.model_copy(update=nulls)))
        changed = {key: it for key, it in changed.items() if key not in nulls or filled.get(key) != it[0]}
    return changed


# ---------------------------------------------------------------------------------------------- keys and layers


@dataclass(frozen=True)
class _Key:
    """One key of a config: its field, the class that first declared it, and its group where it is one."""

    field: FieldInfo
    owner: type[Section]
    section: type[Section] | None

    @property
    def is_option(self) -> bool:
        """Whether `--key` itself can be given: a group is set key by key, but an optional one also turned off."""
        return self.section is None or NoneType in _members(self.field.annotation)


@dataclass(frozen=True)
class _Setting:
    """A value and where it came from."""

    value: Any
    origin: str


type _Layer = dict[str, _Setting]  # by dotted key


def _keys(section: type[Section], prefix: str = "") -> dict[str, _Key]:
    """All keys of a config class by dotted name, groups before what is in them."""
    keys = {}
    for name, field in section.model_fields.items():
        inner = next((m for m in _members(field.annotation) if isinstance(m, type) and issubclass(m, Section)), None)
        owner = next(c for c in reversed(section.__mro__) if issubclass(c, Section) and name in c.model_fields)
        keys[prefix + name] = _Key(field, owner, inner)
        if inner:
            keys |= _keys(inner, f"{prefix}{name}.")
    return keys


def _defaults(section: type[Section]) -> dict[str, Any]:
    """The defaults written in the code, as a plain tree. Required fields are absent."""
    defaults = {
        n: f.get_default(call_default_factory=True) for n, f in section.model_fields.items() if not f.is_required()
    }
    return {n: v.model_dump() if isinstance(v, BaseModel) else v for n, v in defaults.items()}


def _flatten(
    tree: Mapping[Any, Any], keys: dict[str, _Key], origin: Callable[[str], str] = lambda _: "default", prefix: str = ""
) -> _Layer:
    """Dotted keys of a nested mapping. Only groups are taken apart: a dict-valued setting is replaced whole."""
    layer: _Layer = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        group = isinstance(value, Mapping) and value and key in keys and keys[key].section
        new = _flatten(value, keys, origin, f"{key}.") if group else {key: _Setting(value, origin(key))}
        if twice := layer.keys() & new.keys():
            raise UserError(f"{origin(key)}: {min(twice)} is given twice")
        layer |= new
    return layer


def _unflatten(settings: _Layer) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, setting in settings.items():
        *groups, name = key.split(".")
        inner = tree
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[name] = setting.value
    return tree


def _overlay(settings: _Layer, layer: _Layer) -> None:
    """Let the values of `layer` win. A whole group (`lora: null`) replaces its keys, and a key ends a group's null."""
    for key, setting in layer.items():
        inside = [k for k in settings if k.startswith(f"{key}.")]
        if inside and setting.value == {}:
            continue  # `lora: {}` asks for the group, and it is there
        for k in [*inside, *(k for k in settings if key.startswith(f"{k}."))]:
            del settings[k]
        settings[key] = setting


# ---------------------------------------------------------------------------------------------- the YAML file

_FLOAT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?$")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's reading of plain words; PyYAML's 1.1 takes 5e-6 for text and `no` or 1:30 for something else."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012  (PyYAML's own way to declare it)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        """Keys are text, and a key given twice is an error; PyYAML silently keeps the last."""
        mapping: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=key.start_mark)
            if key.value in mapping:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            mapping[key.value] = self.construct_object(value, deep=True)
        return mapping


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 would misread (as SafeDumper does) and what `_Loader` would read as a number."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(null|Null|NULL|~|)$"), ["n", "N", "~", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9]\d*)$"), list("-+0123456789"))
for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _read_file(file: Path, keys: dict[str, _Key]) -> tuple[_Layer, dict[str, _Layer]]:
    """The settings of a YAML file and those of its profile blocks, by profile."""
    tree, lines = _load(_read_bytes(file), str(file))
    layers: dict[str, _Layer] = {}
    for profile in [p for p in PROFILES if p in tree]:
        block = tree.pop(profile)
        if not isinstance(block, dict | None):
            found = f"{file}:{lines[profile]}: {profile} is {_text(block)}"
            raise UserError(f"{found}; accepted: the settings of that profile, as 'key: value' lines below it")
        layers[profile] = _flatten(block or {}, keys, _in_block(file, lines, profile))
    return _flatten(tree, keys, lambda key: f"{file}:{lines[key]}"), layers


def _in_block(file: Path, lines: dict[str, int], profile: str) -> Callable[[str], str]:
    return lambda key: f"profile {profile} ({file}:{lines[f'{profile}.{key}']})"


def _read_bytes(file: Path) -> bytes:
    try:
        if file.is_dir():
            raise UserError(f"{file} is a folder, not a config file", nearest("", _yaml_names(file)) or None)
        if file.exists():
            with file.open("rb") as opened:
                content = opened.read(LARGEST_FILE + 1)
            if len(content) > LARGEST_FILE:
                raise UserError(f"{file} is larger than {LARGEST_FILE // 10**6} MB: no config file")
            return content
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise UserError(f"the config file {_shortened(str(file))} cannot be read: {_reason(error)}") from error
    if not file.parent.is_dir():
        raise UserError(f"there is no config file {file}: the folder {file.parent} does not exist")
    raise UserError(f"there is no config file {file}", nearest(file.name, _yaml_names(file.parent)) or None)


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _yaml_names(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir() if f.suffix in {".yaml", ".yml"})


def _load(text: str | bytes, name: str) -> tuple[dict[Any, Any], dict[str, int]]:
    """A YAML mapping as a tree, and the line of each dotted key (from 1)."""
    try:
        node, tree = _compose(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a tag that lies, such as `!!int fast`
        raise UserError(f"{name}{_problem(error)}") from error
    if tree is None:
        raise UserError(f"{name} is empty", "a config file holds 'key: value' lines")
    if not isinstance(tree, dict):
        raise UserError(f"{name} holds a {node.id} at the top level", "a config file holds 'key: value' lines")
    return tree, dict(_lines(node))


def read_yaml(text: str) -> Any:
    """A value given as text, as a config file would have it.

    Raises:
        UserError: it is not YAML.
    """
    try:
        return _compose(text)[1]
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"which is not valid YAML{_problem(error)}") from error


def _compose(text: str | bytes) -> tuple[Any, Any]:
    """The YAML node of a text, and what it says.

    Raises:
        yaml.YAMLError, ValueError: it is not YAML, nested too deeply, or grows too large when its aliases are followed.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        _refuse_huge(node)
        return node, loader.construct_document(node) if node else None
    except RecursionError as error:
        raise yaml.YAMLError(f"nested more than {DEEPEST} levels deep") from error
    except (LookupError, TypeError, AttributeError) as error:  # a tag that lies, such as `!!bool maybe` or `!!int ''`
        raise yaml.YAMLError("a tag (!!...) that does not fit its value") from error


def _refuse_huge(node: yaml.Node | None) -> None:
    """Follow aliases as often as they are used: a few lines of them can stand for more than any memory holds."""
    left, waiting = MOST_VALUES, [(node, 1)]
    while waiting:
        inner, depth = waiting.pop()
        left -= 1
        if inner is None or isinstance(inner, yaml.ScalarNode):
            continue
        if depth > DEEPEST or left < 0:
            most = f"nested more than {DEEPEST} levels deep" if depth > DEEPEST else f"more than {MOST_VALUES} values"
            raise yaml.MarkedYAMLError(problem=most, problem_mark=inner.start_mark)
        pairs = inner.value if isinstance(inner, yaml.MappingNode) else [(None, item) for item in inner.value]
        waiting += [(value, depth + 1) for _, value in pairs]


def _problem(error: Exception) -> str:
    """':LINE: what is wrong' for a file that YAML cannot read."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f":{error.problem_mark.line + 1}: {error.problem or 'not valid YAML'}"
    return f": not valid YAML: {str(error).splitlines()[0]}"


def _lines(node: yaml.Node, prefix: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield f"{prefix}{key.value}", key.start_mark.line + 1
            yield from _lines(value, f"{prefix}{key.value}.")


# ---------------------------------------------------------------------------------------------- profile, environment


def largest_cuda_gb() -> float:
    """Memory of the largest CUDA device in GB (1e9 bytes); 0 without one."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    return max(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())) / 1e9


def _choose_profile(asked: str, *, blocks: Mapping[str, _Layer], cuda_gb: Callable[[], float]) -> tuple[str, str]:
    """The profile and why. A config without profile blocks (a resolved one) is taken as it is."""
    if not blocks:
        return "none", "the config has no profile blocks" + ("" if asked == "auto" else f", so {asked} changes nothing")
    if asked != "auto":
        return asked, "asked for with --profile"
    if (found := cuda_gb()) >= GPU_PROFILE_GB:
        return "gpu", f"a CUDA device with {found:.0f} GB is there"
    largest = f"the largest CUDA device has {found:.0f} GB, less than {GPU_PROFILE_GB}" if found else "no CUDA device"
    return "laptop", largest


def _environment(keys: dict[str, _Key], environ: Mapping[str, str]) -> _Layer:
    """The settings made by environment variables; an empty variable counts as not set."""
    return {
        key: _Setting(_from_text(environ[variable], keys[key].field, variable), f"environment {variable}")
        for variable, key in ENVIRONMENT.items()
        if environ.get(variable)
    }


# ---------------------------------------------------------------------------------------------- the command line
#
# argparse, and not pydantic-settings' CLI: a value on the command line must mean what it means in the file
# (`{exact: 1}`, `none`), an unknown option must be answered with the nearest key and every value must keep its origin.
# There, values are JSON, one word is null, unknown options end the process, and its import alone costs 0.2 s of --help.


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are UserErrors: "command line: --lr is fast; accepted: a number".

    An option is named whole: `--seed` is no short form of `--seeds`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (\S+): is ", r"\1 is ", message)
        raise UserError(f"command line: {message}", "--help explains every option")


def _parser(config_class: type[Config], prog: str, description: str) -> Parser:
    """An option for every key, under the heading of the class or group that declares it; the common ones last."""
    parser = Parser(
        prog=prog,
        description=description,
        usage=f"{prog} [--config FILE] [--profile auto|laptop|gpu] [--KEY VALUE ...]",
        epilog="Later wins: defaults < YAML < profile block < environment (WANDB_PROJECT, WANDB_ENTITY, "
        "WANDB_RUN_NAME, WANDB_MODE) < command line. --show_config tells where each value comes from.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28),
    )
    _add_switches(parser.add_argument_group("How to run"))
    keys = _keys(config_class)
    defaults = _flatten(_defaults(config_class), keys)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, key in sorted(keys.items(), key=lambda item: item[1].owner is Config):
        group = name if key.section else name.rpartition(".")[0]
        title = f"{group}: {_about(keys[group])}" if group else _about(key)
        if key.is_option and title not in groups:
            groups[title] = parser.add_argument_group(title)
        if key.is_option:
            _add_option(groups[title], name, key.field, defaults.get(name))
    return parser


def _add_switches(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--config", metavar="FILE", help="YAML file with the settings below")
    group.add_argument(
        "--profile",
        choices=("auto", *PROFILES),
        default="auto",
        help=f"scale; auto is gpu with a CUDA device of {GPU_PROFILE_GB} GB or more, otherwise laptop (default: auto)",
    )
    group.add_argument(
        "--fork",
        type=user_path,
        metavar="NEW_DIR",
        help="start another run in NEW_DIR from the newest checkpoint of the run in output_dir: its weights, optimizer "
        "and step, and its settings where no others are given",
    )
    for name, text in SWITCHES.items():
        group.add_argument(f"--{name}", action="store_true", help=text)


def _add_option(group: argparse._ArgumentGroup, name: str, field: FieldInfo, default: _Setting | None) -> None:
    # What is in a group that is off by default has no setting; there, the default is that of its own class.
    value = default.value if default else field.get_default(call_default_factory=True)
    shown = "required" if not default and field.is_required() else f"default: {_text(value)}"
    text = f"{field.description or ''} [{_accepts(field)}; {shown}]"
    # A bool may stand alone. Absent options stay absent: only what was said on the command line is a layer.
    alone: dict[str, Any] = {"nargs": "?", "const": "true"} if bool in _members(field.annotation) else {}
    text = text.strip().replace("%", "%%")
    group.add_argument(f"--{name}", metavar="VALUE", default=argparse.SUPPRESS, help=text, **alone)


def _about(key: _Key) -> str:
    """The heading of a group of options: its description, or the first line of the class that declares it."""
    if key.section:
        return (key.field.description or key.section.__doc__ or "").split("\n")[0].rstrip(".")
    return (key.owner.__doc__ or key.owner.__name__).split("\n")[0].rstrip(".")


def _parse(parser: Parser, argv: list[str], keys: dict[str, _Key]) -> tuple[dict[str, Any], _Layer]:
    """The run switches, and the settings given on the command line."""
    known, unknown = parser.parse_known_args(_attach_negatives(argv))
    if options := [o.split("=")[0] for o in unknown if o.startswith("--")]:
        accepted = [f"--{name}" for name, key in keys.items() if key.is_option] + [f"--{s}" for s in vars(known)]
        lines = [f"command line: unknown option {o}; {nearest(o, accepted)}".rstrip("; ") for o in options]
        raise UserError(_list(lines, "options are unknown"), "--help explains every option")
    if unknown:
        parser.error(f"unexpected {unknown[0]!r}; settings are given as --key value")
    switches = {name: value for name, value in vars(known).items() if name not in keys}
    given = {k: _from_text(v, keys[k].field, f"--{k}") for k, v in vars(known).items() if k in keys}
    return switches, _flatten(given, keys, lambda _: "command line")


def _attach_negatives(argv: list[str]) -> list[str]:
    """`--bias -1e-3` as `--bias=-1e-3`: argparse takes a negative number with an exponent for an option."""
    joined: list[str] = []
    for word in argv:
        option = joined and joined[-1].startswith("--") and "=" not in joined[-1]
        if option and word.startswith("-") and (_FLOAT.match(word) or word.lower() in ("-inf", "-.inf", "-nan")):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _from_text(text: str, field: FieldInfo, name: str) -> object:
    """A value given as text. Where the setting takes text it is that text; otherwise it is read as in the YAML file."""
    members = _members(field.annotation)
    literals = [choice for m in members if get_origin(m) is Literal for choice in get_args(m)]
    if text in literals:
        return text
    if NoneType in members and text.lower() in {"null", "none"}:
        return None
    kinds = [*map(type, literals), *(m for m in members if isinstance(m, type))]
    if any(issubclass(kind, str | Path) for kind in kinds) or not text.strip():
        # A setting that takes a name or a list of names: '[a, b]' is the list.
        listed = [m for m in members if (get_origin(m) or m) in (list, tuple)] and text.strip().startswith("[")
        return value if listed and isinstance(value := _yaml_or_none(text), list) else text
    try:
        return read_yaml(text)
    except UserError as error:
        found = f"command line: {name} is {_shortened(text)}, {error.message}"
        raise UserError(f"{found}; accepted: {_accepts(field)}") from error


def _yaml_or_none(text: str) -> Any:
    try:
        return read_yaml(text)
    except UserError:
        return None


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else text[:80] + "..."


# ---------------------------------------------------------------------------------------------- validation, errors


def _refuse_unknown(keys: dict[str, _Key], layers: Iterable[_Layer]) -> None:
    lines = [
        f"{setting.origin}: unknown key {name}; {nearest(name, [*keys, *PROFILES])}".rstrip("; ")
        for layer in layers
        for name, setting in layer.items()
        if name not in keys
    ]
    if lines:
        raise UserError(_list(lines, "keys are unknown"), "--help explains every key")


def _validate[ConfigT: Config](config_class: type[ConfigT], settings: _Layer, keys: dict[str, _Key]) -> ConfigT:
    try:
        return config_class.model_validate(_unflatten(settings))
    except ValidationError as error:
        # A union reports each of its members; the first line says it all.
        lines = {_key_of(e["loc"], keys): _invalid(e, settings, keys) for e in reversed(error.errors())}
        raise UserError(_list(list(reversed(lines.values())), "settings are not valid")) from error


def _key_of(loc: tuple[int | str, ...], keys: dict[str, _Key]) -> str:
    """The key that pydantic's location is in; the location may go on, into a list or a dict."""
    paths = (".".join(map(str, loc[:n])) for n in range(len(loc), 0, -1))
    return next((path for path in paths if path in keys), "")


def _invalid(error: Any, settings: _Layer, keys: dict[str, _Key]) -> str:
    """One line: where the value came from, what was found, what is accepted."""
    name = _key_of(error["loc"], keys)
    place = f"{settings[name].origin}: " if name in settings else ""
    if error["type"] in {"value_error", "assertion_error"}:  # raised by a validator, which knows best what to say
        text = str(error["ctx"]["error"])
        return f"{place}{name}: {text}" if name else text
    if error["type"] == "missing":
        return f"{name} is not set; accepted: {_accepts(keys[name].field)}"
    path, found = ".".join(map(str, error["loc"])), error["input"]
    whole = path == name or (name in settings and found is settings[name].value)  # a union's path ends in its member
    if whole and error["type"] not in {"bool_for_number", "too_large", "no_text"}:
        return f"{place}{name} is {_text(found)}; accepted: {_accepts(keys[name].field)}"
    return f"{place}{path} is {_text(found)}; accepted: {error['msg'].removeprefix('Input should be ')}"


def _list(lines: list[str], what: str) -> str:
    return lines[0] if len(lines) == 1 else "\n".join([f"{len(lines)} {what}:", *(f"  - {line}" for line in lines)])


def _text(value: object) -> str:
    """A value as the user would write it: null, true, "text", {"exact": 1.0}."""
    return json.dumps(value.model_dump() if isinstance(value, BaseModel) else value, default=str, ensure_ascii=False)


# ---------------------------------------------------------------------------------------------- types, in words

_KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    NoneType: "null",
    dict: "a mapping such as {name: 1}",
    list: "a list such as [a, b]",
    tuple: "a list such as [a, b]",
}
_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "min_length": "length >=", "max_length": "length <="}


def _members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a type: (float, None) for `float | None`."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(m for arg in get_args(annotation) for m in _members(arg))
    return (annotation,)


def _accepts(field: FieldInfo) -> str:
    """The type of a setting and its bounds in words: 'a number > 0 or null'."""
    bounds = [f"{sign} {getattr(m, b)}" for m in field.metadata for b, sign in _BOUNDS.items() if hasattr(m, b)]
    bound = f" {' and '.join(bounds)}" if bounds else ""
    return " or ".join(_kind(m) + (bound if m is not NoneType else "") for m in _members(field.annotation))


def _kind(member: Any) -> str:
    if get_origin(member) is Literal:
        return "one of " + ", ".join(map(str, get_args(member)))
    if isinstance(member, type) and issubclass(member, Section):
        return f"a mapping with {', '.join(member.model_fields)}"
    return _KINDS.get(get_origin(member) or member) or str(member)


_NO_TEXT = re.compile(r"[\0\ud800-\udfff]")


def _plain_values(value: object) -> Iterator[object]:
    """The keys and values of a setting, at any depth, without those of groups, which are checked by themselves."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield key
            yield from _plain_values(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _plain_values(inner)
    else:
        yield value


def _bool_became_number(given: object, value: object) -> bool:
    """Whether pydantic read true or false as 1 or 0, at any depth of a plain value."""
    if isinstance(given, bool):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(given, Mapping) and isinstance(value, Mapping):
        return any(_bool_became_number(given[k], value[k]) for k in given.keys() & value.keys())
    if isinstance(given, list | tuple) and isinstance(value, list | tuple):
        return any(map(_bool_became_number, given, value))
    return False
