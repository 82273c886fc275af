"""Many runs, each in a process of its own: finished ones are used, stopped ones go on."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from rlhf.config.recorded import read_config, read_provenance
from rlhf.errors import UserError, nearest
from rlhf.run.inputs import changed, inputs
from rlhf.run.processes import run_module


@dataclass(frozen=True)
class Planned:
    """A run to make: `python -m module *arguments --output_dir path`."""

    label: str
    path: Path
    module: str
    arguments: Sequence[str]
    config: Mapping[str, Any] = field(default_factory=dict)  # the resolved settings that are asked for

    @property
    def done(self) -> bool:
        return (self.path / "final").is_dir()

    @property
    def command(self) -> list[str]:
        started = (self.path / "config.yaml").is_file()
        resume = ["--resume"] if started else []
        return ["-m", self.module, *self.arguments, "--output_dir", str(self.path), "--quiet", *resume]


# Settings that do not make a finished run another one: how it was saved and shown.
UNASKED = (
    *("output_dir", "save_every", "keep_checkpoints", "sample_every", "tensorboard", "trackio"),
    *("wandb_project", "wandb_entity", "wandb_run_name", "wandb_mode"),
)


def refuse_stale(run: Planned) -> None:
    """Check that an existing run is the one that is asked for; then it is used.

    Raises:
        UserError: it has other settings, or its input files have changed since.
    """
    there = read_config(run.path)
    differ = [
        f"{key} is {there[key]} there, {value} is asked for"
        for key, value in run.config.items()
        if key not in UNASKED and key in there and there[key] != value
    ]
    if there:
        now = inputs({key: value for key, value in run.config.items() if key not in UNASKED})
        differ += [
            f"'{name}' has changed since" for name in changed(read_provenance(run.path).get("inputs") or {}, now)
        ]
    if differ:
        raise UserError(
            f"'{run.path}' is a run with other settings: {'; '.join(differ)}",
            hint="--folder DIR compares elsewhere; or remove that directory, and the run is made anew.",
        )


def choose(option: str, given: str, names: Sequence[str], *, seeds: int) -> list[str]:
    """The names that `--algorithms all` or `--algorithms a,b` mean.

    Raises:
        UserError: there is no such name, one is given twice, or there is not even one seed.
    """
    chosen = list(names) if given == "all" else [name.strip() for name in given.split(",")]
    if twice := [name for name in dict.fromkeys(chosen) if chosen.count(name) > 1]:
        raise UserError(f"{option}: {', '.join(twice)} is given twice", "Repetitions are seeds: --seeds N.")
    for name in chosen:
        if name not in names:
            raise UserError(f"{option}: there is no '{name}': {nearest(name, names)}".rstrip(": "))
    if seeds < 1:
        raise UserError(f"--seeds: at least 1, not {seeds}")
    return chosen


def make_all(planned: Sequence[Planned], *, at_once: int = 1, quiet: bool = False) -> None:
    """Make the runs that do not exist yet, each in a process of its own.

    Args:
        at_once: runs that are made at the same time; each of several has one thread.
        quiet: print nothing, unless a run fails.

    Raises:
        UserError: a run failed. The others are kept, and the same command continues from there.
    """

    failed = Event()

    def make(number: int, run: Planned) -> None:
        if failed.is_set():
            return
        where = f"[{number}/{len(planned)}] {run.path}"
        if not quiet:
            print(f"{where}: there already" if run.done else f"{where}: {run.label}", flush=True)
        if not run.done:
            try:
                _make(run, beside_others=at_once > 1)
            except BaseException:
                failed.set()
                raise

    with ThreadPoolExecutor(at_once) as pool:
        made = [pool.submit(make, number, run) for number, run in enumerate(planned, start=1)]
        try:
            for one in as_completed(made):
                one.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # those that have begun end by themselves


def _make(run: Planned, *, beside_others: bool) -> None:
    code, said = run_module(run.command[1], run.command[2:], beside_others=beside_others)
    if code != 0:
        print(said, end="")
        raise UserError(
            f"{run.path} ended with exit code {code}; its message is above",
            hint="The same command goes on from here.",
        )
