"""Run directories read from disk.

A run that was cut short is still worth reading: every file may be missing, and lines that cannot be parsed are left
out. `Run.notes` lists what is missing or left out, and the page shows it.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from rlhf.config.recorded import unset_of
from rlhf.config.yaml_file import read_yaml
from rlhf.errors import UserError
from rlhf.statistics import Estimate

# A run directory holds at least one of these.
FILES = ("config.yaml", "provenance.json", "metrics.jsonl", "eval.jsonl", "samples.jsonl")

NOT_METRICS = ("step", "wall_s")


class Target(NamedTuple):
    """A held-out measurement: a metric on a data set."""

    data: str
    metric: str

    @property
    def name(self) -> str:
        return f"{self.metric} on {self.data}" if self.data else self.metric


class Point(NamedTuple):
    step: int
    estimate: Estimate


@dataclass(frozen=True)
class Run:
    """One run directory, as far as it could be read."""

    path: Path
    config: dict[str, Any] = field(default_factory=dict)  # flat: nested keys are joined by dots; and the trainer
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)  # one dict a step, in order
    samples: list[dict[str, Any]] = field(default_factory=list)
    evaluation: dict[Target, list[Point]] = field(default_factory=dict)
    advice: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was missing or unreadable

    @property
    def title(self) -> str:
        return str(self.provenance.get("title") or self.config.get("algorithm") or self.path.resolve().name)

    @property
    def seed(self) -> Any:
        return self.config.get("seed", self.provenance.get("seed"))

    @property
    def unset(self) -> frozenset[str]:
        """The settings that nobody gave."""
        return unset_of(self.provenance, self.config)

    @property
    def last_step(self) -> int | None:
        steps = [row["step"] for row in self.metrics] + [p.step for points in self.evaluation.values() for p in points]
        return max(steps, default=None)

    @property
    def seconds(self) -> float | None:
        return max((row["wall_s"] for row in self.metrics if is_number(row.get("wall_s"))), default=None)

    @property
    def tokens(self) -> float | None:
        """Tokens processed, as speed times time summed over the steps; None where the run did not log its speed.

        `wall_s` counts from the start of the run, so the time of a step is the difference to the step before.
        """
        total, before = None, 0.0
        for row in self.metrics:
            wall, speed = row.get("wall_s"), row.get("speed/tokens_per_s")
            if is_number(wall):
                if is_number(speed):
                    total = (total or 0.0) + speed * max(wall - before, 0.0)
                before = wall
        return total

    @property
    def optimizer_steps(self) -> int | None:
        """Optimizer steps of the policy in the whole run; None where the run did not log them."""
        counts = self.series("optim/steps")[1]
        return round(float(counts.sum())) if len(counts) else None

    @property
    def commit(self) -> str:
        """The start of the commit's hash; "" if unknown."""
        commit = str(self.provenance.get("git_commit") or "")[:12]
        return f"{commit} with uncommitted changes" if commit and self.provenance.get("git_dirty") else commit

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of a metric, where it was measured and finite."""
        rows = [(row["step"], row[name]) for row in self.metrics if is_number(row.get(name))]
        steps, values = zip(*rows, strict=True) if rows else ((), ())
        return np.array(steps, dtype=float), np.array(values, dtype=float)

    def metric_names(self) -> list[str]:
        """Every metric with at least one value, in the order in which it was first logged."""
        seen = {k: None for row in self.metrics for k, v in row.items() if k not in NOT_METRICS and is_number(v)}
        return list(seen)

    def unmeasured(self) -> list[str]:
        """Metrics that were logged but never held a number."""
        measured = {*self.metric_names(), *NOT_METRICS}
        return list({k: None for row in self.metrics for k in row if k not in measured})


def is_number(value: object) -> TypeGuard[int | float]:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


# ---------------------------------------------------------------------------------------------------------- reading


def read_run(path: Path) -> Run:
    """Read a run directory. Raises `UserError` where there is none."""
    path = Path(path)
    if not path.exists():
        raise UserError(
            f"{path}: no such run directory", hint="name a directory that a trainer wrote, such as runs/grpo-seed0"
        )
    if not path.is_dir():
        raise UserError(f"{path} is a file, not a run directory", hint=f"try its folder: {path.parent}")
    if not any((path / name).exists() for name in FILES):
        raise UserError(f"{path} is not a run directory: it has none of {', '.join(FILES)}", hint=_runs_inside(path))
    notes: list[str] = []
    config = _read_mapping(path / "config.yaml", read_yaml, notes)
    provenance = _read_mapping(path / "provenance.json", json.loads, notes)
    by_step: dict[int, dict[str, Any]] = {}
    for row in _rows_with_step(path / "metrics.jsonl", notes):
        # After a resume a step may be there twice: the later record wins.
        by_step.setdefault(row["step"], {}).update(row)
    return Run(
        path=path,
        config=dict(_flatten(config)) | {key: provenance[key] for key in ("trainer",) if key in provenance},
        provenance=provenance,
        metrics=[by_step[step] for step in sorted(by_step)],
        samples=sorted(_rows_with_step(path / "samples.jsonl", notes), key=lambda row: row["step"]),
        evaluation=_evaluation(_rows_with_step(path / "eval.jsonl", notes)),
        advice=list(_jsonl(path / "advice.jsonl", notes)) if (path / "advice.jsonl").exists() else [],
        notes=notes,
    )


def _runs_inside(path: Path) -> str:
    found = sorted(p.name for p in path.iterdir() if p.is_dir() and any((p / name).exists() for name in FILES))
    return f"it contains runs: {', '.join(found[:5])}" if found else "name the directory that a trainer wrote"


def _text_of(path: Path, *, errors: str = "strict") -> str:
    """The content of a file. Pipes and devices, which may never end, are not read."""
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no file")
    return path.read_text(encoding="utf-8", errors=errors)


def _read_mapping(path: Path, parse: Callable[[str], Any], notes: list[str]) -> dict[str, Any]:
    try:
        content = parse(_text_of(path))
    except FileNotFoundError:
        notes.append(f"{path.name} is missing.")
    except (OSError, ValueError, RecursionError, UserError):
        notes.append(f"{path.name} could not be read.")
    else:
        if isinstance(content, dict):
            return {str(key): value for key, value in content.items()}
        notes.append(f"{path.name} does not hold keys and values.")
    return {}


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _jsonl(path: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    try:
        lines = _text_of(path, errors="replace").splitlines()
    except FileNotFoundError:
        notes.append(f"{path.name} is missing.")
        return
    except OSError:
        notes.append(f"{path.name} could not be read.")
        return
    bad = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield row
        else:
            bad.append(number)
    if bad == [len(lines)]:
        notes.append(f"The last line of {path.name} is cut off and was left out.")
    elif bad:
        notes.append(f"{path.name}: {len(bad)} lines could not be read and were left out, the first is line {bad[0]}.")


def _rows_with_step(path: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    for row in _jsonl(path, notes):
        if is_number(row.get("step")):
            yield row | {"step": int(row["step"])}


def _evaluation(rows: Iterable[dict[str, Any]]) -> dict[Target, list[Point]]:
    found: dict[Target, dict[int, Estimate]] = {}
    for row in rows:
        if is_number(row.get("value")):
            low, high, n = (row[k] if is_number(row.get(k)) else None for k in ("low", "high", "n"))
            if low is None or high is None:
                low = high = None
            target = Target(str(row.get("data") or ""), str(row.get("metric") or "value"))
            found.setdefault(target, {})[row["step"]] = Estimate(row["value"], low, high, n)
    return {target: [Point(s, points[s]) for s in sorted(points)] for target, points in found.items()}
