"""The local files that a config names: what they held when the run began, so that a change of them is seen."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlhf.config.paths import home

NOT_INPUTS = ("output_dir", "vllm_folder", "wandb_project", "wandb_entity", "wandb_run_name")
PIECE = 1 << 20  # bytes of a model's weights that are read at their start, middle and end


def inputs(config: Mapping[str, Any]) -> dict[str, str]:
    """Name as in the config -> digest of its content, for every file and every folder with a model."""
    found = {}
    for name in dict.fromkeys(_texts({k: v for k, v in config.items() if k not in NOT_INPUTS})):
        file, folder = _file(name), Path(home(name))
        if file is not None:
            found[name] = _digest(file)
        elif "/" in name and folder.is_dir():
            digest = _of_model(folder) or _of_model(folder / "final")
            found |= {name: digest} if digest else {}
    return found


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Names whose content is not what it was. One that is gone is for whoever opens it to say."""
    return [name for name, digest in now.items() if before.get(name, digest) != digest]


def inside(config: Mapping[str, Any], folder: Path) -> list[str]:
    """Which files and folders that a config names lie in `folder`, or are it."""
    found, real = [], folder.resolve()
    for name in dict.fromkeys(_texts({k: v for k, v in config.items() if k not in NOT_INPUTS})):
        with suppress(OSError, ValueError):  # a text that is no file name
            path = _file(name) or Path(home(name))
            if path.exists() and path.resolve().is_relative_to(real):
                found.append(name)
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _file(name: str) -> Path | None:
    """The file, also of 'file.py:function'."""
    for candidate in (name, name.rpartition(":")[0]):
        try:
            if candidate and Path(home(candidate)).is_file():
                return Path(home(candidate))
        except (OSError, ValueError):  # no file name: too long, or with a null character
            return None
    return None


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]


def _of_model(folder: Path) -> str:
    """Of a model's settings and words, and of a part of its weights: training changes them all."""
    digest = hashlib.sha256()
    for file in sorted(it for it in folder.glob("*") if it.suffix in (".json", ".jinja", ".safetensors", ".bin")):
        size = file.stat().st_size
        with file.open("rb") as content:
            for start in (0, size // 2, max(0, size - PIECE)):
                content.seek(start)
                digest.update(content.read(PIECE))
        digest.update(f"{file.name} {size}".encode())
    return digest.hexdigest()[:16] if (folder / "config.json").is_file() else ""
