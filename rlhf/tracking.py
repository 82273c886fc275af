"""The run directory, a contract that tools read, and the trackers (W&B, TensorBoard) beside it.

config.yaml  provenance.json  metrics.jsonl  samples.jsonl  eval.jsonl  advice.jsonl  checkpoints/  final/  report.html
"""

import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rlhf.errors import UserError

STREAMS = ("metrics", "samples", "eval", "advice")
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
        return read_records(self.path / f"{stream}.jsonl")

    @property
    def wall_s(self) -> float:
        return time.monotonic() - self._started

    def forget_after(self, step: int) -> None:
        """Drop what a killed run logged after the checkpoint that it is resumed from, and go on with its clock."""
        if not self.writes:
            return
        for stream in STREAMS:
            records = read_records(self.path / f"{stream}.jsonl")
            kept = [record for record in records if record.get("step", 0) <= step]
            if records:
                write_whole(self.path / f"{stream}.jsonl", "".join(json.dumps(record) + "\n" for record in kept))
            if stream == "metrics" and kept:
                self._started = time.monotonic() - kept[-1]["wall_s"]


def write_whole(path: Path, text: str) -> None:
    """Beside its place, then renamed into it: a full disk or a kill leaves what stood there."""
    partial = path.with_name(f".partial_{path.name}")
    try:
        partial.write_text(text)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        error.filename = str(path)
        raise


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a jsonl file; a last line that a kill cut short is left out."""
    records = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def open_run(path: Path, *, resume: bool, overwrite: bool, config_yaml: str, provenance: Mapping[str, Any]) -> Run:
    """Make or reopen a run directory. Called in the main process, after the config is valid and before models load.

    Raises:
        UserError: it exists and is to be neither resumed nor overwritten; or it is to be resumed and is not there.
    """
    exists = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if resume:
        if not (path / "config.yaml").is_file():
            raise UserError(
                f"--resume: there is no run in '{path}' to continue",
                hint="Leave --resume out to start it, or name the run with --output_dir.",
            )
        write_whole(path / "config.yaml", config_yaml)  # what holds from here on: max_steps may have been raised
        return Run(path)
    if exists and not overwrite:
        raise UserError(
            f"the run directory '{path}' exists already",
            hint="--resume continues it, --overwrite replaces it, --output_dir DIR writes elsewhere.",
        )
    if exists:
        if not (path / "config.yaml").is_file():
            raise UserError(f"--overwrite: '{path}' is not the directory of a run, so it is left alone")
        shutil.rmtree(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_whole(path / "config.yaml", config_yaml)
        write_whole(path / "provenance.json", json.dumps(provenance, indent=1) + "\n")
    except OSError:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return Run(path)


def discard_if_empty(path: Path) -> None:
    """Remove the directory of a run that failed before its first record: nothing half-written is left behind."""
    if path.is_dir() and not any(read_records(path / f"{stream}.jsonl") for stream in STREAMS):
        shutil.rmtree(path, ignore_errors=True)


def provenance(
    *,
    title: str,
    seed: int,
    profile: str,
    processes: int,
    data_fingerprint: str,
    metrics: Mapping[str, Any],
    headline: list[str],
) -> dict[str, Any]:
    """What is needed to say where a number came from."""
    return {
        "title": title,
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "host": {"system": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count()},
        "seed": seed,
        "profile": profile,
        "processes": processes,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "data_fingerprint": data_fingerprint,
        "metrics": metrics,
        "headline": headline,
    }


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def wanted_trackers(*, wandb_project: str | None, wandb_mode: str, tensorboard: bool) -> list[str]:
    """Trackers that can work here. W&B without a key stays local, and says so once; it never asks."""
    trackers = ["tensorboard"] if tensorboard else []
    if wandb_project is None or wandb_mode == "disabled":
        return trackers
    if wandb_mode == "online" and not _has_wandb_key():
        print("W&B: no WANDB_API_KEY, so this run is logged in its own directory only (wandb_project: null is silent)")
        return trackers
    return [*trackers, "wandb"]


def _has_wandb_key() -> bool:
    """In the environment, or in .netrc for the server that W&B will ask; a file that cannot be read has none."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    server = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname
    try:
        netrc = Path(os.environ.get("NETRC") or Path.home() / ".netrc")  # no home: RuntimeError
        return (server or "api.wandb.ai") in netrc.read_text(encoding="utf-8", errors="replace")
    except (OSError, RuntimeError):
        return False


class Trackers:
    """W&B and TensorBoard through Accelerate. Their failures are reported once and never stop a run."""

    def __init__(self, accelerator, *, config, run: Run):
        self.accelerator, self.alive = accelerator, bool(accelerator.log_with)
        if self.alive:
            self._try("start", lambda: self._start(config, run))

    def _start(self, config, run: Run) -> None:
        arguments = {}
        if "wandb" in [str(getattr(kind, "value", kind)) for kind in self.accelerator.log_with]:
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
