"""What a run directory records about its run: provenance.json and config.yaml, unchecked."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
