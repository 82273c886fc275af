"""Calling the commands as a user would, in this process, on data and a model small enough for seconds."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commands import Caller, Outcome

import direct_alignment.compare
import direct_alignment.sample_pairs
import direct_alignment.train
from rlhf.run.tracking import read_records

SMALL = [
    *("--profile", "laptop", "--quiet", "--eval_problems", "4", "--eval_samples", "4", "--max_steps", "4"),
    *("--batch_size", "4", "--save_every", "1", "--eval_every", "0", "--max_new_tokens", "24", "--data.held_out", "8"),
]
CLOCK = ("wall_s", "speed/", "time/", "memory/")


class Commands(Caller):
    def train(self, *arguments: str | Path) -> Outcome:
        return self._call(direct_alignment.train.main, arguments)

    def compare(self, *arguments: str | Path) -> Outcome:
        return self._call(direct_alignment.compare.main, arguments)

    def sample_pairs(self, *arguments: str | Path) -> Outcome:
        self.capfd.readouterr()
        code = direct_alignment.sample_pairs.main([*map(str, arguments)])
        return Outcome(code, *self.capfd.readouterr())


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(count: int) -> list[dict[str, str]]:
    """Prefers capitals."""
    return [{"prompt": f"say {i}", "chosen": f"SAY {i}", "rejected": f"well {i}, no"} for i in range(count)]


def uneven_pairs(count: int) -> list[dict[str, str]]:
    """Of unequal lengths, on both sides and among the prompts."""
    return [
        {"prompt": "x" * (i % 4) + f" {i}", "chosen": f"yes{'!' * (i % 3)}", "rejected": f"no{'?' * (i % 5)}"}
        for i in range(count)
    ]


def labelled(count: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"say {i}", "completion": f"SAY {i}" if i % 2 else f"well {i}, no", "label": bool(i % 2)}
        for i in range(count)
    ]


def weights(run: Path) -> str:
    return hashlib.sha256((run / "final" / "model.safetensors").read_bytes()).hexdigest()


def logged(run: Path, *, streams: Sequence[str] = ("metrics", "eval", "samples")) -> list[dict[str, Any]]:
    """Everything that was logged but what depends on the clock."""
    return [
        {key: value for key, value in record.items() if not key.startswith(CLOCK)}
        for stream in streams
        for record in read_records(run / f"{stream}.jsonl")
    ]
