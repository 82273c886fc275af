"""What a run directory records about its run: provenance.json and config.yaml, unchecked."""

import inspect
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from rlhf.config.keys import all_keys, defaults_of, flatten
from rlhf.config.yaml_file import read_yaml
from rlhf.errors import UserError


def read_provenance(folder: Path) -> dict[str, Any]:
    """The content of provenance.json; {} if it is missing or unreadable."""
    try:
        provenance = json.loads((folder / "provenance.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return provenance if isinstance(provenance, dict) else {}


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.yaml, not validated; {} if it is missing or unreadable."""
    try:
        config = read_yaml((folder / "config.yaml").read_text("utf-8"))
    except (OSError, ValueError, UserError):
        return {}
    return config if isinstance(config, dict) else {}


def trainer_of(provenance: Mapping[str, Any]) -> str:
    """The module that made a run, such as "reward_models.train_orm"; "" if unknown."""
    if provenance.get("trainer"):
        return str(provenance["trainer"])
    # Early runs record only their command line.
    words = str(provenance.get("command", "")).split()
    after = words[words.index("-m") + 1 :] if "-m" in words else []
    return after[0] if after and after[0].rpartition(".")[2].startswith("train") else ""


def unset_of(provenance: Mapping[str, Any], config: Mapping[str, Any]) -> frozenset[str]:
    """The settings of a run that nobody gave. Of a run that did not record them: those that have today's defaults.

    Args:
        config: by dotted keys.
    """
    recorded = provenance.get("unset")
    if isinstance(recorded, list):
        return frozenset(map(str, recorded))
    defaults = _defaults_today(trainer_of(provenance))
    return frozenset(key for key, value in config.items() if key in defaults and defaults[key] == value)


@cache
def _defaults_today(trainer: str) -> dict[str, Any]:
    """The defaults of a trainer's settings by dotted key; {} if this project has no such trainer."""
    file = Path(__file__).parents[2] / f"{trainer.replace('.', '/')}.py"
    if not re.fullmatch(r"\w+\.train\w*", trainer) or not file.is_file():
        return {}
    (config_class,) = get_args(inspect.signature(import_module(trainer).read).return_annotation)
    settings = flatten(defaults_of(config_class), all_keys(config_class))
    return {key: setting.value for key, setting in settings.items()}
