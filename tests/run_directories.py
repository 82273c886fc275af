"""Run directories with files of a few rows."""

import json
from pathlib import Path
from typing import Any

import yaml


def write_run(folder: Path, **files: Any) -> Path:
    """A run directory: `config` and `provenance` as objects, the others as rows, or any of them as bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {"config": "config.yaml", "provenance": "provenance.json"}
    for name, content in files.items():
        if not isinstance(content, bytes):
            dump = yaml.safe_dump if name == "config" else json.dumps
            content = "".join(dump(it) + "\n" for it in ([content] if name in names else content)).encode()
        (folder / names.get(name, f"{name}.jsonl")).write_bytes(content)
    return folder
