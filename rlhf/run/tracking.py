"""The run directory, a contract that tools read, and the trackers (W&B, TensorBoard, trackio) beside it.

config.yaml  provenance.json  metrics.jsonl  samples.jsonl  eval.jsonl  advice.jsonl  checkpoints/  final/  report.html
"""

import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rlhf.atomic import write_whole
from rlhf.config.command import Command
from rlhf.config.schema import Config
from rlhf.run.directory import MADE_BY, STREAMS
from rlhf.run.inputs import inputs

OWN = "rlhf-lab"
PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "reasoning-gym", "numpy")


class Run:
    """A run directory, open for writing. Only the main process writes; in others every method does nothing."""

    def __init__(self, path: Path, *, writes: bool = True):
        self.path, self.writes = path, writes
        self._started = time.monotonic()

    def append(self, stream: str, record: Mapping[str, Any]) -> None:
        """Add one line to `stream`.jsonl. Not-a-number becomes null: JSON has no word for it."""
        if not self.writes:
            return
        path = self.path / f"{stream}.jsonl"
        before = path.stat().st_size if path.exists() else 0
        try:
            with path.open("a") as file:
                file.write(json.dumps({key: _json(value) for key, value in record.items()}) + "\n")
        except OSError as error:
            with suppress(OSError):
                os.truncate(path, before)  # a full disk takes part of a line
            error.filename = error.filename or str(path)  # a failed write, unlike a failed open, does not know it
            raise

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.append("metrics", {"step": step, "wall_s": round(self.wall_s, 3), **metrics})

    def records(self, stream: str) -> list[dict[str, Any]]:
        return _read(self.path / f"{stream}.jsonl", _is_of(stream))[0]

    @property
    def wall_s(self) -> float:
        return time.monotonic() - self._started

    def lines(self) -> dict[str, int]:
        """How many records each log has."""
        return {stream: len(self.records(stream)) for stream in STREAMS}

    def forget_after(self, step: int, lines: Mapping[str, int] | None = None) -> list[str]:
        """Drop what was logged after a checkpoint: records of later steps, and those behind its `lines`, where it knows
        them; and go on with its clock. Returns what there is to say about lines that cannot be read."""
        if not self.writes:
            return []
        said = []
        for stream in STREAMS:
            path = self.path / f"{stream}.jsonl"
            records, broken = _read(path, _is_of(stream))
            first = len(records) if lines is None else lines.get(stream, 0)
            if len(records) < first:
                said.append(f"{path}: {first - len(records)} of the {first} records that the checkpoint knows are gone")
            kept = [record for record in records[:first] if record.get("step", 0) <= step]
            if broken:
                said.append(f"{path}: left out {', '.join(broken)}")
            if path.is_file():
                write_whole(path, "".join(json.dumps(record) + "\n" for record in kept))
            if stream == "metrics" and kept and isinstance(wall_s := kept[-1].get("wall_s"), int | float):
                self._started = time.monotonic() - wall_s
        return said


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a jsonl file; lines that are none are left out, such as a last one that a kill cut short."""
    return _read(path, lambda _: True)[0]


def _read(path: Path, accepted: Callable[[dict[str, Any]], bool]) -> tuple[list[dict[str, Any]], list[str]]:
    """The records, and which lines are none; of the last line nothing is said, since a kill may have cut it short."""
    records, broken = [], []
    lines = path.read_bytes().splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line.decode())
        except ValueError:
            record = None
        if isinstance(record, dict) and accepted(record):
            records.append(record)
        elif line.strip() and number < len(lines):
            broken.append(f"line {number}, which is no record")
    return records, broken


def _is_of(stream: str) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a record has what a resumed run reads of it: a step, and what names it."""
    names = {"eval": ("data", "metric"), "advice": ("text",)}.get(stream, ())
    return lambda it: isinstance(it.get("step", 0), int) and all(isinstance(it.get(name), str) for name in names)


def for_shell(command: str, *, run: Path) -> str:
    """A command that can be pasted, with the directory of a run for `{run}`, quoted where its name asks for it."""
    return command.replace("{run}", shlex.quote(str(run)))


def command_line() -> str:
    """What was called, as a shell takes it."""
    return shlex.join(["python", *sys.orig_argv[1:]])


def provenance(
    command: Command[Any],
    *,
    algorithm: str,
    data: str,
    data_fingerprint: str,
    processes: int,
    metrics: Mapping[str, Any],
    headline: list[str],
) -> dict[str, Any]:
    """What is needed to say where a number came from, and whose directory it is.

    Args:
        algorithm, data: what is trained and on what, for people.
    """
    settings = command.config.model_dump(mode="json")
    return {
        "made_by": MADE_BY,
        "title": f"{algorithm} on {data}" if data else algorithm,
        "algorithm": algorithm,
        "data": data,
        "trainer": command.trainer,
        "command": command_line(),
        "version": _own_version(),
        **code_version(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "host": {"system": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count()},
        "seed": command.config.seed,
        "profile": command.profile,
        "processes": processes,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "data_fingerprint": data_fingerprint,
        "inputs": inputs(settings),
        "settings": settings,
        "unset": command.unset,
        "metrics": metrics,
        "headline": headline,
    }


def _own_version() -> str:
    """Of this project; "" where it runs from a folder without being installed."""
    try:
        return version(OWN)
    except PackageNotFoundError:
        return ""


def code_version() -> dict[str, Any]:
    """The commit that the code is of, and whether it was changed since; None where there is no git."""
    return {
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def wanted_trackers(config: Config) -> list[str]:
    """Trackers that the config asks for and that can work here; none of them ever asks. W&B without a key, and trackio
    where it is not installed, are left out, which is said once."""
    trackers = ["tensorboard"] if config.tensorboard else []
    if config.trackio and find_spec("trackio") is None:
        print("trackio: not installed, so this run is logged in its own directory only (uv sync --extra trackio)")
    elif config.trackio:
        trackers.append("trackio")
    if config.wandb_project is None or config.wandb_mode == "disabled":
        return trackers
    if config.wandb_mode == "online" and not _has_wandb_key():
        print("W&B: no WANDB_API_KEY, so this run is logged in its own directory only (wandb_project: null is silent)")
        return trackers
    return [*trackers, "wandb"]


def _has_wandb_key() -> bool:
    """In the environment, or in .netrc for the server that W&B will ask; a file that cannot be read has none."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        server = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname
        netrc = Path(os.environ.get("NETRC") or Path.home() / ".netrc")  # no home: RuntimeError
        return (server or "api.wandb.ai") in netrc.read_text(encoding="utf-8", errors="replace")
    except (OSError, RuntimeError, ValueError):
        return False


class Trackers:
    """W&B, TensorBoard and trackio through Accelerate. Their failures are reported once and never stop a run."""

    def __init__(self, accelerator, *, config, run: Run):
        self.accelerator, self.alive = accelerator, bool(accelerator.log_with)
        if self.alive:
            self._try("start", lambda: self._start(config, run))

    def _start(self, config, run: Run) -> None:
        kinds = [str(getattr(kind, "value", kind)) for kind in self.accelerator.log_with]
        arguments = {}
        if "trackio" in kinds:
            arguments["trackio"] = {"name": run.path.name}
        if "wandb" in kinds:
            import wandb

            os.environ.setdefault("WANDB_SILENT", "true")
            arguments["wandb"] = {
                "name": config.wandb_run_name or run.path.name,
                "entity": config.wandb_entity,
                "mode": config.wandb_mode,
                "dir": str(run.path),
                # Seconds that an unreachable server may take of the start and of the end; the records stay on disk.
                "settings": wandb.Settings(init_timeout=10, finish_timeout=60, silent=True),
            }
        flat = {key: value for key, value in config.model_dump().items() if isinstance(value, int | float | str | bool)}
        self.accelerator.init_trackers(config.wandb_project or "rlhf-lab", flat, arguments)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self.alive:
            self._try("log", lambda: self.accelerator.log(dict(metrics), step=step))

    def finish(self) -> None:
        if self.alive:
            self._try("finish", self.accelerator.end_training)

    def _try(self, what: str, action) -> None:
        try:
            action()
        except (Exception, SystemExit) as error:  # whatever a tracker throws: key refused, network gone, disk full
            self.alive = False
            reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            print(f"trackers: could not {what} ({reason}); going on without them")
