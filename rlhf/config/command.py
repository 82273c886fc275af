"""From defaults, a YAML file, a profile, the environment and the command line to one validated config.

Every source is a layer: dotted keys (`data.size`) to values with their origins. Later layers overwrite earlier ones,
the result is validated once, and an error names the line that caused it:

    defaults in the code  <  YAML  <  profile block (`laptop:`, `gpu:`)  <  environment (W&B)  <  command line

Nothing here imports torch until a profile has to be chosen: `--help` must answer in well under a second.
"""

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cached_property
from pathlib import Path
from typing import Any

from rlhf.config.command_line import SWITCHES, make_parser, parse, read_environment
from rlhf.config.keys import Key, Layer, Setting, all_keys, defaults_of, flatten, overlay, topics_of
from rlhf.config.paths import home, numbered_runs, seen_from_here
from rlhf.config.profiles import PROFILES, choose_profile, driver_cuda_gb, largest_cuda_gb
from rlhf.config.resuming import (
    MADE_BY_CHECKPOINT,
    MAY_CHANGE,
    differences,
    find_run,
    refuse_edited,
    refuse_other_settings,
)
from rlhf.config.schema import Config
from rlhf.config.validation import refuse_unknown, validate
from rlhf.config.words import as_text
from rlhf.config.yaml_file import find_config, load_yaml, read_bytes, read_file
from rlhf.errors import UserError

# (settings of the file, settings of the command line) -> keys of the file that do not hold beside those of the command
# line, and another name for the run if there are any.
PUBLISHED = "published value"  # the origin of what `fill` gives in place of null
type Void = Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[Collection[str], str | None]]


@dataclass(frozen=True)
class Command[ConfigT: Config]:
    """A command line that has been read: the validated config, the origin of each value, and how to run it."""

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
    # Settings of the file that the command line has made void: key -> "value (origin)".
    left_out: Mapping[str, str] = dataclass_field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what there is to say about how the command was understood
    called: bool = False  # by a Python program, which goes on after the run

    @property
    def unset(self) -> list[str]:
        """The settings that nobody gave: what holds is the default, or the published value."""
        return [key for key, origin in self.origin.items() if origin in ("default", PUBLISHED)]


def read_command[ConfigT: Config](
    config_class: type[ConfigT],
    argv: list[str],
    *,
    prog: str,
    description: str,
    default_config: Path | None = None,
    named_by: str = "",
    environ: Mapping[str, str] | None = None,
    cuda_gb: Callable[[], float] | None = None,
    void: Void | None = None,
    fill: Callable[[ConfigT], ConfigT] | None = None,
) -> Command[ConfigT]:
    """Read the command line `argv`, without the program's name. With --help, print it and leave.

    With --resume or --fork the config of the run replaces the defaults. Only what the user asks for (a file named with
    --config, its profile block, the environment, the command line) overwrites it and is compared with it.

    Args:
        prog: how the program is called, for --help: "python -m policy_gradients.train".
        default_config: the YAML file used when there is no --config. `--config NAME` finds NAME.yaml beside it.
        named_by: a key whose value on the command line names the file beside `default_config` that is used in its
            place when there is no --config: `--algorithm rloo` takes rloo.yaml.
        environ, cuda_gb: the environment, and the memory of the largest CUDA device in GB; tests replace them.
        void: settings of the file that do not hold beside those of the command line (see `Void`).
        fill: replaces null settings by the values that they stand for.

    Raises:
        UserError: a file, a key or a value is not valid, or a continued run may not change it.
        SystemExit: with --help.
    """
    keys = all_keys(config_class)

    def read(largest_gpu: Callable[[], float]) -> Command[ConfigT]:
        switches, command_line = parse(make_parser(config_class, prog, description), argv, keys)
        request = _Request(
            config_class=config_class,
            keys=keys,
            switches=switches,
            trainer=prog.split()[-1] if prog else "",
            file=_config_file(switches["config"], command_line.get(named_by), default_config),
            environment=read_environment(keys, os.environ if environ is None else environ),
            command_line=command_line,
            cuda_gb=largest_gpu,
            void=void,
            fill=fill or (lambda config: config),
        )
        return request.read()

    if {"-h", "--help"}.isdisjoint(argv):
        return read(cuda_gb or largest_cuda_gb)
    try:
        command = read(cuda_gb or driver_cuda_gb)
        settings, about = (
            settings_of(command),
            f"Beside a default stands what would run here: profile {command.profile}",
        )
    except UserError as error:
        settings, about = None, f"Shown are the defaults, since this command is refused: {error.message}"
    make_parser(config_class, prog, f"{description}\n{about}".strip(), settings).print_help()
    raise SystemExit(0)


def settings_of(command: Command) -> Layer:
    """Every setting of a command by its dotted key, each with its origin."""
    flat = flatten(command.config.model_dump(), all_keys(type(command.config)))
    return {key: Setting(setting.value, command.origin[key]) for key, setting in flat.items()}


def show(command: Command) -> str:
    """Every setting with its origin, one a line, by topic: the output of --show_config, which is also a config file."""
    settings = settings_of(command)
    lines = {key: f"{key}: {as_text(setting.value)}" for key, setting in settings.items()}
    width = min(48, max(map(len, lines.values())))
    shown = [f"# {note}" for note in command.notes]
    shown.append(f"# profile {command.profile}: {command.profile_reason}")
    for title, names in topics_of(type(command.config)).items():
        if there := [name for name in names if name in settings]:
            shown += ["", f"# {title}", *(f"{lines[key]:<{width}}  # {settings[key].origin}" for key in there)]
    return "\n".join(shown)


def _config_file(asked: str | None, named: Setting | None, default: Path | None) -> Path | None:
    """The config file of a command: the one that is asked for, by name or path, or that a setting names, or the
    default. Those that come with a command stand beside its default."""
    if asked is not None:
        return find_config(asked, default.parent if default else None)
    if default is None:
        return None
    own = default.with_name(f"{named.value}.yaml") if named else default
    return seen_from_here(own if own.is_file() else default)


# ---------------------------------------------------------------------------------------------- new and continued runs


@dataclass(frozen=True)
class _Request[ConfigT: Config]:
    """One command line and the files that it names, layer by layer."""

    config_class: type[ConfigT]
    keys: dict[str, Key]
    switches: dict[str, Any]
    trainer: str
    file: Path | None
    environment: Layer
    command_line: Layer
    cuda_gb: Callable[[], float]
    void: Void | None
    fill: Callable[[ConfigT], ConfigT]

    def read(self) -> Command[ConfigT]:
        refuse_unknown(self.keys, [self.yaml, *self.blocks.values(), self.command_line])
        for option in ("resume", "fork"):
            if self.switches[option]:
                return _continued_run(self, option)
        return _new_run(self)

    @cached_property
    def _layers(self) -> tuple[Layer, dict[str, Layer]]:
        return read_file(self.file, self.keys) if self.file else ({}, {})

    @property
    def yaml(self) -> Layer:
        return self._layers[0]

    @property
    def blocks(self) -> dict[str, Layer]:
        return self._layers[1]

    def choose_profile(self, asked: str) -> tuple[str, str]:
        return choose_profile(asked, blocks=self.blocks, cuda_gb=self.cuda_gb)

    def without_void(self, layer: Layer) -> tuple[Layer, Layer, str | None]:
        """The settings of a file that hold, those that the command line makes void, and the run's name if it does."""
        if self.void is None:
            return dict(layer), {}, None
        in_file = {key: setting.value for key, setting in layer.items()}
        on_command_line = {key: setting.value for key, setting in self.command_line.items()}
        void, name = self.void(in_file, on_command_line)
        kept = {key: setting for key, setting in layer.items() if key not in void}
        left_out = {key: setting for key, setting in layer.items() if key in void and setting.value is not None}
        return kept, left_out, name

    def from_file(self, profile: str) -> tuple[Layer, Layer, str | None]:
        """`without_void` of the YAML file with its block of that profile."""
        layer = dict(self.yaml)
        overlay(layer, self.blocks.get(profile, {}))
        return self.without_void(layer)

    def run_directory(self, settings: Layer, name: str | None) -> str:
        """`output_dir`, or the default: runs/<name, config file or trainer>-seed<seed>."""
        given = settings.get("output_dir")
        if given and given.value is not None:
            return home(str(given.value))
        seed = settings["seed"].value if "seed" in settings else 0
        return f"runs/{name or (self.file.stem if self.file else self.trainer)}-seed{seed}"

    def command(self, config: ConfigT, settings: Layer, profile: str, reason: str, **more: Any) -> Command[ConfigT]:
        """The command of a validated config, whose null settings are filled in."""
        given = flatten(config.model_dump(), self.keys)
        config = self.fill(config)
        flat = flatten(config.model_dump(), self.keys)
        origin = {
            key: settings.get(key, setting).origin if given.get(key) == setting else PUBLISHED
            for key, setting in flat.items()
        }
        switches = {name: self.switches[name] for name in SWITCHES}
        return Command(config, origin, profile, reason, **switches, trainer=self.trainer, **more)


def _new_run[ConfigT: Config](request: _Request[ConfigT]) -> Command[ConfigT]:
    profile, reason = request.choose_profile(request.switches["profile"])
    settings = flatten(defaults_of(request.config_class), request.keys)
    from_file, left_out, name = request.from_file(profile)
    for layer in (from_file, request.environment, request.command_line):
        overlay(settings, layer)
    config = validate(request.config_class, settings, request.keys)
    if config.output_dir is None:
        config = config.model_copy(update={"output_dir": request.run_directory(settings, name)})
    notes = {key: f"{as_text(setting.value)} ({setting.origin})" for key, setting in left_out.items()}
    return request.command(config, settings, profile, reason, left_out=notes)


def _continued_run[ConfigT: Config](request: _Request[ConfigT], option: str) -> Command[ConfigT]:
    """The run's own config under the settings that were asked for. Files and profiles used by default do not count."""
    switches = request.switches
    keys = request.keys
    if switches["resume"] and (other := next((name for name in ("fork", "overwrite") if switches[name]), None)):
        raise UserError(f"--resume and --{other}: one of them", "--resume goes on in the same directory and keeps it.")

    # 1. the run as it is
    path = Path(_known_directory(request, option))
    provenance = find_run(path, option=option, trainer=request.trainer)
    profile = str(provenance.get("profile") or "")
    file = path / "config.yaml"
    tree, lines = load_yaml(read_bytes(file), str(file))
    recorded = flatten(tree, keys, lambda key: f"{file}:{lines[key]}")
    refuse_unknown(keys, [recorded])
    settings = flatten(defaults_of(request.config_class), keys)
    overlay(settings, recorded)
    run = validate(request.config_class, settings, keys)
    if option == "resume":
        refuse_edited(file, provenance.get("settings"), run.model_dump(mode="json"))

    # 2. what is asked for
    if option == "fork":
        settings = flatten(defaults_of(request.config_class), keys)
        overlay(settings, request.without_void(recorded)[0])
    refused = []
    asked_profile = switches["profile"]
    if switches["config"] is not None:
        keeps_profile = asked_profile == "auto" and profile in request.blocks
        overlay(settings, request.from_file(profile if keeps_profile else request.choose_profile(asked_profile)[0])[0])
    elif asked_profile not in ("auto", profile) and profile in PROFILES:
        refused.append(f"profile is {profile} in the run, {asked_profile} is asked for (command line)")
    for layer in (request.environment, request.command_line):
        overlay(settings, layer)
    config = validate(request.config_class, settings, keys)

    # 3. what differs, and whether it may
    changed = _changes(run, config, keys, request.fill)
    for key, (old, new) in changed.items():
        fixed = key not in MAY_CHANGE if option == "resume" else key.split(".")[0] in MADE_BY_CHECKPOINT
        if fixed:
            origin = settings[key].origin if key in settings else "default"
            refused.append(f"{key} is {as_text(old)} in the run, {as_text(new)} is asked for ({origin})")
    refuse_other_settings(option, path, refused)
    if option == "fork":
        config = config.model_copy(update={"output_dir": str(switches["fork"])})
        return request.command(config, settings, profile, "that of the run", source=path)
    new_values = {key: new for key, (_, new) in changed.items()}
    config = run.model_copy(update={**new_values, "output_dir": str(path)})
    return request.command(config, settings, profile, "that of the run")


def _known_directory(request: _Request, option: str) -> str:
    """The directory of the run to continue, found from the settings that it was started with.

    Raises:
        UserError: it is not named, and several runs have the name that a run gets by itself.
    """
    profile = request.switches["profile"]
    from_file, _, name = request.from_file(profile if profile in request.blocks else "")
    settings = {**from_file, **request.command_line}
    known = request.run_directory(settings, name)
    if "output_dir" not in settings and len(runs := numbered_runs(known)) > 1:
        raise UserError(
            f"--{option}: which of {', '.join(map(str, runs))} is to be continued?", "--output_dir DIR names it."
        )
    return known


def _changes[ConfigT: Config](
    run: ConfigT, config: ConfigT, keys: dict[str, Key], fill: Callable[[ConfigT], ConfigT]
) -> dict[str, tuple[Any, Any]]:
    """Keys in which two configs differ, with both values. null counts as the value that it stands for."""

    def values(of: ConfigT) -> dict[str, Any]:
        return {key: setting.value for key, setting in flatten(of.model_dump(mode="json"), keys).items()}

    changed = differences(values(run), values(config))
    nulls = {key: None for key, (_, new) in changed.items() if new is None and key in type(run).model_fields}
    if nulls:
        filled = values(fill(run.model_copy(update=nulls)))
        changed = {key: pair for key, pair in changed.items() if key not in nulls or filled.get(key) != pair[0]}
    return changed
