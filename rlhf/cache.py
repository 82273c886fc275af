"""What is costly to make and depends on known things alone is made once: sampled candidates, reference log-probs.

The key is a hash of everything the value depends on, so nothing is ever out of date. Entries are written beside their
place and renamed into it; each begins with its own checksum, and one that does not hold is made anew. The folder is
`$RLHF_CACHE`, or ~/.cache/rlhf-lab; it can be removed at any time.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from rlhf.models.loading import find_model, read_config

WEIGHTS_AND_WORDS = ("*.safetensors", "*.bin", "*.gguf", "*.json", "*.jinja", "*.model", "*.txt")
DIGEST = 64  # characters of a sha256 in hex


def folder() -> Path:
    return Path(os.environ.get("RLHF_CACHE") or Path.home() / ".cache" / "rlhf-lab")


def key(*parts: Any) -> str:
    """The same for the same parts, on any machine. Parts are what JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def cached[T](kind: str, entry: str, make: Callable[[], T]) -> T:
    """The value of `make()`, made once for each `kind` ('candidates') and `entry` (a `key`).

    Values are tensors, numbers, texts, and lists, tuples and dicts of them. A folder that cannot be written to costs
    time, not the run.
    """
    file = folder() / kind / f"{entry}.pt"
    try:
        content = file.read_bytes()
        digest, payload = content[:DIGEST], content[DIGEST:]
        if digest.decode() == hashlib.sha256(payload).hexdigest():
            return torch.load(io.BytesIO(payload), weights_only=True)
    except (OSError, UnicodeDecodeError):
        pass
    value = make()
    buffer = io.BytesIO()
    torch.save(value, buffer)
    payload = buffer.getvalue()
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(hashlib.sha256(payload).hexdigest().encode() + payload)
        beside.replace(file)
    except OSError as error:
        print(f"cache: {file} could not be written ({error.strerror}); going on without it")
        with suppress(OSError):
            beside.unlink()
    return value


def fingerprint(model_name: str) -> str:
    """Of a model's weights, sizes, tokenizer and chat template: another file, another fingerprint.

    A folder or GGUF is known by the bytes of its files; a model of the Hub by its commit.
    """
    source = find_model(model_name)
    place = Path(source.path)
    if not place.is_dir():
        return key(source.path, getattr(read_config(source), "_commit_hash", None))
    digest = hashlib.sha256()
    patterns = [source.gguf_file] if source.gguf_file else WEIGHTS_AND_WORDS
    for file in sorted({file for pattern in patterns for file in place.glob(pattern)}):
        digest.update(file.name.encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
