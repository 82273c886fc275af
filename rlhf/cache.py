"""A content-addressed cache for expensive, deterministic results: sampled candidates, reference log-probs.

The key is a hash of everything that the value depends on, so no entry is ever out of date. Every entry begins with its
checksum, and a corrupt entry is computed again. The folder is `$RLHF_CACHE`, or ~/.cache/rlhf-lab; it can be removed at
any time.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rlhf.atomic import write_whole
from rlhf.models.loading import find_model, read_config

WEIGHTS_AND_WORDS = ("*.safetensors", "*.bin", "*.gguf", "*.json", "*.jinja", "*.model", "*.txt")
DIGEST = 64  # characters of a sha256 in hex


def folder() -> Path:
    return Path(os.environ.get("RLHF_CACHE") or Path.home() / ".cache" / "rlhf-lab")


def key(*parts: Any) -> str:
    """A hash of values that JSON can hold, equal on every machine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def cached[T](kind: str, entry: str, make: Callable[[], T]) -> T:
    """The value of `make()`, computed once for each `kind` ("candidates") and `entry` (a `key`).

    Values are tensors, numbers, texts, and lists, tuples and dicts of them. If the folder cannot be written to, the run
    goes on without the cache.
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
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, hashlib.sha256(payload).hexdigest().encode() + payload, shared=True)
    except OSError as error:
        print(f"cache: {file} could not be written ({error.strerror}); going on without it")
    return value


def fingerprint(model_name: str) -> str:
    """A hash of a model: of the bytes of its weights, config, tokenizer and template, or of its commit on the Hub."""
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
