"""Settings given as text: the command line and the environment.

argparse is used rather than the command line of pydantic-settings, because a value must mean the same here as in the
file (`{exact: 1}`, `none`), an unknown option must be answered with the nearest key, and every value must keep its
origin. pydantic-settings reads values as JSON, ends the process at an unknown option and takes 0.2 s to import.
"""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, get_args, get_origin

from pydantic.fields import FieldInfo

from rlhf.config.keys import Key, Layer, Setting, all_keys, defaults_of, flatten, topics_of
from rlhf.config.paths import user_path
from rlhf.config.profiles import GPU_PROFILE_GB, PROFILES
from rlhf.config.resuming import MAY_CHANGE
from rlhf.config.schema import Config
from rlhf.config.words import accepts, alternatives, as_text, listed, shortened
from rlhf.config.yaml_file import FLOAT, read_yaml
from rlhf.errors import UserError, nearest

ENVIRONMENT = {
    "WANDB_PROJECT": "wandb_project",
    "WANDB_ENTITY": "wandb_entity",
    "WANDB_RUN_NAME": "wandb_run_name",
    "WANDB_MODE": "wandb_mode",
}

SWITCHES = {
    "resume": "continue the run in output_dir from its newest checkpoint, with its own settings; may change: "
    + ", ".join(MAY_CHANGE),
    "overwrite": "replace the run in output_dir once the new one can begin; what is not a run is left alone",
    "plan": "say what would run and what it needs, then stop",
    "show_config": "print every setting with its origin, then stop",
    "quiet": "no progress bar and no samples",
    "debug": "show tracebacks",
}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserErrors: "command line: --lr is fast; accepted: a number".

    Options cannot be abbreviated: `--max_st` is not `--max_steps`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (\S+): is ", r"\1 is ", message)
        raise UserError(f"command line: {message}", "--help explains every option")


def make_parser(config_class: type[Config], prog: str, description: str, settings: Layer | None = None) -> Parser:
    """A parser with an option for every key, under the heading of its topic.

    Args:
        settings: the values that would run, which the help shows beside the defaults of the code.
    """
    parser = Parser(
        prog=prog,
        description=description,
        usage=f"{prog} [--config FILE] [--profile auto|laptop|gpu] [--KEY VALUE ...]",
        epilog="Later wins: defaults < YAML < profile block < environment (WANDB_PROJECT, WANDB_ENTITY, "
        "WANDB_RUN_NAME, WANDB_MODE) < command line. --show_config shows the origin of each value.",
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28),
        add_help=False,
    )
    _add_switches(parser.add_argument_group("How to run"))
    keys = all_keys(config_class)
    defaults = flatten(defaults_of(config_class), keys)
    for title, names in topics_of(config_class).items():
        group = parser.add_argument_group(title)
        for name in names:
            _add_option(group, name, keys[name].field, defaults.get(name), (settings or {}).get(name))
    return parser


def _add_switches(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--config",
        metavar="FILE",
        help="YAML file with the settings below, or the name of one that comes with the command: --config NAME",
    )
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
    group.add_argument("-h", "--help", action="store_true", help="explain every option, then stop")


def _add_option(
    group: argparse._ArgumentGroup, name: str, field: FieldInfo, default: Setting | None, here: Setting | None
) -> None:
    # A key of a group that is off by default has no default setting; show that of the group's class.
    value = default.value if default else field.get_default(call_default_factory=True)
    shown = "required" if not default and field.is_required() else f"default: {as_text(value)}"
    if here is not None and here.value != value:
        shown += f"; here: {as_text(here.value)}, {here.origin}"
    text = f"{field.description or ''} [{accepts(field)}; {shown}]"
    # A bool option may stand without a value. Options that are not given are suppressed: they are not in the layer.
    alone: dict[str, Any] = {"nargs": "?", "const": "true"} if bool in alternatives(field.annotation) else {}
    text = text.strip().replace("%", "%%")
    group.add_argument(f"--{name}", metavar="VALUE", default=argparse.SUPPRESS, help=text, **alone)


def parse(parser: Parser, argv: list[str], keys: dict[str, Key]) -> tuple[dict[str, Any], Layer]:
    """The switches of the run, and the layer of the settings that the command line gives."""
    known, unknown = parser.parse_known_args(_attach_negatives(argv))
    if options := [o.split("=")[0] for o in unknown if o.startswith("--")]:
        accepted = [f"--{name}" for name, key in keys.items() if key.is_option] + [f"--{s}" for s in vars(known)]
        lines = [f"command line: unknown option {o}; {nearest(o, accepted)}".rstrip("; ") for o in options]
        raise UserError(listed(lines, "options are unknown"), "--help explains every option")
    if unknown:
        parser.error(f"unexpected {unknown[0]!r}; settings are given as --key value")
    switches = {name: value for name, value in vars(known).items() if name not in keys}
    given = {k: _from_text(v, keys[k].field, f"--{k}") for k, v in vars(known).items() if k in keys}
    return switches, flatten(given, keys, lambda _: "command line")


def _attach_negatives(argv: list[str]) -> list[str]:
    """Write `--bias -1e-3` as `--bias=-1e-3`: argparse mistakes a negative number with an exponent for an option."""
    joined: list[str] = []
    for word in argv:
        option = joined and joined[-1].startswith("--") and "=" not in joined[-1]
        if option and word.startswith("-") and (FLOAT.match(word) or word.lower() in ("-inf", "-.inf", "-nan")):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def read_environment(keys: dict[str, Key], environ: Mapping[str, str]) -> Layer:
    """The layer of the environment variables; an empty variable counts as not set."""
    return {
        key: Setting(_from_text(environ[variable], keys[key].field, variable), f"environment {variable}")
        for variable, key in ENVIRONMENT.items()
        if environ.get(variable)
    }


def _from_text(text: str, field: FieldInfo, name: str) -> object:
    """The value of a text: the text itself where the setting accepts text, otherwise its meaning in YAML."""
    members = alternatives(field.annotation)
    literals = [choice for m in members if get_origin(m) is Literal for choice in get_args(m)]
    if text in literals:
        return text
    if NoneType in members and text.lower() in {"null", "none"}:
        return None
    kinds = [*map(type, literals), *(m for m in members if isinstance(m, type))]
    if any(issubclass(kind, str | Path) for kind in kinds) or not text.strip():
        # For a setting that accepts a name or a list of names, '[a, b]' is a list.
        accepts_list = any((get_origin(member) or member) in (list, tuple) for member in members)
        value = _yaml_or_none(text) if accepts_list and text.strip().startswith("[") else None
        return value if isinstance(value, list) else text
    try:
        return read_yaml(text)
    except UserError as error:
        found = f"command line: {name} is {shortened(text)}, {error.message}"
        raise UserError(f"{found}; accepted: {accepts(field)}") from error


def _yaml_or_none(text: str) -> Any:
    try:
        return read_yaml(text)
    except UserError:
        return None
