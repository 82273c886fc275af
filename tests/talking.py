"""A run whose model is tiny and untrained, for the commands that talk to models."""

from pathlib import Path
from typing import Any

from run_directories import write_run
from steps_by_hand import save_tiny

ADDITION = {"task": "basic_arithmetic", "task_config": {"max_terms": 2}}


def tiny_run(folder: Path, *, seed: int = 0, **config: Any) -> str:
    """The name of a run with that config."""
    write_run(folder, config={"max_new_tokens": 6, **config}, provenance={"trainer": "family.train"})
    save_tiny(folder / "final", seed=seed)
    return str(folder)
