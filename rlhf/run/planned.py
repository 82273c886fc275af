"""Runs and files that a program above the families asks for: from settings to what `make_all` of sweep.py makes."""

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from rlhf.config.trainer import TrainerConfig
from rlhf.errors import UserError
from rlhf.run.from_python import to_argv
from rlhf.run.sweep import Planned


class PlannedFile(Planned):
    """A file to write: `python -m module *arguments --output path`, in one go."""

    @property
    def done(self) -> bool:
        return self.path.is_file()

    @property
    def command(self) -> list[str]:
        return ["-m", self.module, *self.arguments, "--output", str(self.path)]


def planned_run(
    label: str,
    path: Path,
    *,
    module: str,
    config_class: type[TrainerConfig],
    settings: Mapping[str, Any],
    profile: str,
) -> Planned:
    """The run of a trainer, in `path`.

    Args:
        label: what it is called while it is made.
        module: of the trainer, such as "reward_models.train_orm"; its `read` resolves a command line.
        config_class: of its settings.
        profile: "auto", "laptop" or "gpu".

    Raises:
        UserError: the trainer refuses a setting.
    """
    arguments = [f"--profile={profile}", *to_argv(settings, config_class)]
    try:
        command = import_module(module).read(arguments)
    except UserError as error:
        raise UserError(f"{label}: {error.message.removeprefix('command line: ')}", error.hint) from error
    return Planned(label, path, module, arguments, command.config.model_dump(mode="json"))


def planned_file(label: str, path: Path, *, module: str, settings: Mapping[str, Any]) -> PlannedFile:
    """The file of a command that has no config; its settings are `--KEY VALUE`."""
    arguments = [text for key, value in settings.items() for text in (f"--{key}", _as_text(value))]
    return PlannedFile(label, path, module, arguments)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, groups key by key; where both have a value, that of `above`.

    >>> merged({"lr": 1, "data": {"size": 5}}, {"lr": 2, "data": {"seed": 0}})
    {'lr': 2, 'data': {'size': 5, 'seed': 0}}
    """
    found = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = merged(found[key], value) if both else value
    return found


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
