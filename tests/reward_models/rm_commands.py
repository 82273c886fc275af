"""Calling this family's commands as a user would, in this process, and runs of a few seconds."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import reward_models.evaluate
import reward_models.sample
import reward_models.score
import reward_models.train_orm
import reward_models.train_preference_rm
import reward_models.train_prm
from rlhf.errors import run_main

TRAIN = {
    "preference": reward_models.train_preference_rm.main,
    "outcome": reward_models.train_orm.main,
    "process": reward_models.train_prm.main,
}
MODULES = {"preference": "train_preference_rm", "outcome": "train_orm", "process": "train_prm"}
SMALL = [
    *("--profile", "laptop", "--data.problems", "60", "--data.held_out", "20", "--data.validation", "10"),
    *("--data.candidates", "6", "--max_steps", "4", "--batch_size", "8", "--eval_every", "2", "--save_every", "1"),
]


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


class Commands:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
        self.monkeypatch, self.capfd = monkeypatch, capfd

    def train(self, kind: str, *arguments: str | Path) -> Outcome:
        return self._call(TRAIN[kind], arguments)

    def evaluate(self, *arguments: str | Path) -> Outcome:
        return self._call(reward_models.evaluate.main, arguments)

    def score(self, *arguments: str | Path) -> Outcome:
        return self._call(reward_models.score.main, arguments)

    def sample(self, *arguments: str | Path) -> Outcome:
        return self._call(reward_models.sample.main, arguments)

    def _call(self, main: Callable[[], int | None], arguments: tuple[str | Path, ...]) -> Outcome:
        self.monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        self.capfd.readouterr()
        try:
            code = run_main(main, debug=True)
        except SystemExit as stop:  # --help
            code = int(stop.code or 0)
        return Outcome(code, *self.capfd.readouterr())
