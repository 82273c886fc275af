"""Calling the commands as a user would, in this process, since loading torch anew takes seconds."""

import resource
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

import instruction_tuning.train
import policy_gradients.train
from rlhf.errors import run_main

# A GRPO run of a few seconds on the embedded model.
SMALL = [
    *("--profile", "laptop", "--eval_problems", "4", "--prompts_per_step", "2", "--group_size", "4"),
    *("--max_steps", "4", "--save_every", "1"),
]


@contextmanager
def cpu_seconds_below(limit: float) -> Generator[None]:
    """The processes that the block starts and waits for take less processor time than `limit`, whatever else runs."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    yield
    assert spent() - before < limit


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


class Caller:
    """Of any family's commands; each has a subclass that names its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
        self.monkeypatch, self.capfd = monkeypatch, capfd

    def _call(self, main: Callable[[], int | None], arguments: tuple[str | Path, ...]) -> Outcome:
        self.monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
        self.capfd.readouterr()
        try:
            code = run_main(main, debug="--debug" in arguments)
        except SystemExit as stop:  # --help
            code = int(stop.code or 0)
        return Outcome(code, *self.capfd.readouterr())


class Commands(Caller):
    def policy_gradients(self, *arguments: str | Path) -> Outcome:
        return self._call(policy_gradients.train.main, arguments)

    def instruction_tuning(self, *arguments: str | Path) -> Outcome:
        return self._call(instruction_tuning.train.main, arguments)
