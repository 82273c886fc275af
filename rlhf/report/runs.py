"""What a report knows: run directories read from disk, runs grouped over seeds, and the statistics drawn from them.

A run that was cut short is still worth reading, so every file may be missing and a half-written line is left out; what
was left out is kept in `Run.notes` and shown on the page.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from rlhf.config.yaml_file import read_yaml
from rlhf.errors import UserError, nearest
from rlhf.statistics import Estimate, t_interval

# A run directory holds at least one of these.
FILES = ("config.yaml", "provenance.json", "metrics.jsonl", "eval.jsonl", "samples.jsonl")

# Runs that differ in nothing else are repetitions of one experiment.
SEED_KEYS = frozenset({"seed", "output_dir", "wandb_run_name"})

# Keys that name an experiment best; tried first when a label is made.
NAMING_KEYS = ("algorithm", "loss", "task", "tasks", "model_name", "data", "lr", "profile")

NOT_METRICS = ("step", "wall_s")


class Target(NamedTuple):
    """What is measured on held-out problems: a metric on a data set."""

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
    config: dict[str, Any] = field(default_factory=dict)  # flat: nested keys are joined by dots
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


@dataclass(frozen=True)
class Group:
    """Runs of one configuration that differ only in their seed."""

    label: str
    runs: list[Run]


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
            f"{path}: no such run directory", hint="name a directory that a trainer wrote, such as runs/grpo"
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
        by_step.setdefault(row["step"], {}).update(
            row
        )  # a step may be there twice after a resume: the later one counts
    return Run(
        path=path,
        config=dict(_flatten(config)),
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
    """What a file holds. A pipe or a device, which may never end, is not read."""
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


# ------------------------------------------------------------------------------------------------------- statistics


def area_under(points: Sequence[tuple[float, float]], end: float) -> float | None:
    """Mean height of a curve from its first step to `end`, by trapezoids: (1/T) ∫ value d(step)."""
    if len(points) < 2 or end <= points[0][0]:
        return None
    steps, values = np.array(points, dtype=float).T
    inside = steps < end
    x, y = np.append(steps[inside], end), np.append(values[inside], np.interp(end, steps, values))
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


def smooth(steps: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Straight line fitted around each step of `at`, with Gaussian weights as wide as 1/14 of the run.

    Centred, so it does not lag behind the points as an exponential average does; and a line rather than a mean, so it
    is not pulled towards the middle at both ends, where the result of a run is read. Few points, and curves without
    noise such as a learning-rate schedule, stay as they are.
    """
    if len(steps) < 8 or np.median(np.abs(np.diff(values, 2))) < 1e-3 * np.ptp(values):
        return np.interp(at, steps, values)
    away = (steps[None, :] - at[:, None]) / ((steps[-1] - steps[0]) / 14)
    weights = np.exp(-0.5 * away**2)
    s0, s1, s2 = weights.sum(1), (weights * away).sum(1), (weights * away**2).sum(1) + 1e-6  # for a point far from all
    t0, t1 = weights @ values, (weights * away) @ values
    return (s2 * t0 - s1 * t1) / (s0 * s2 - s1**2)


def thin(values: np.ndarray, keep: int) -> np.ndarray:
    """Indices of about `keep` points that keep every spike: the lowest and the highest of each stretch."""
    if len(values) <= keep:
        return np.arange(len(values))
    stretches = np.array_split(np.arange(len(values)), keep // 2)
    return np.unique([i for s in stretches for i in (s[np.argmin(values[s])], s[np.argmax(values[s])])])


# ------------------------------------------------------------------------------------------------ runs over seeds


def group_runs(runs: Sequence[Run], label_keys: Sequence[str] = ()) -> list[Group]:
    """Runs of the same configuration apart from `SEED_KEYS` are one group, in the order in which they were given.

    A directory named twice is one run. Two runs of one seed are no two seeds, whose spread an interval could be made
    of: the second is in another group, which its directory names.
    The label is `label_keys` if given, else the fewest keys that tell the groups apart, well-known names first.
    """
    members: dict[str, list[Run]] = {}
    times: Counter[str] = Counter()  # how often settings with their seed have been seen
    for run in {run.path.resolve(): run for run in runs}.values():
        settings = {k: v for k, v in run.config.items() if k not in SEED_KEYS} or {"run": str(run.path.resolve())}
        experiment = json.dumps(settings, sort_keys=True, default=str)
        repeated = times[f"{experiment} {run.seed}"] if run.seed is not None else 0
        times[f"{experiment} {run.seed}"] += 1
        members.setdefault(f"{repeated} {experiment}", []).append(run)
    known = {key for run in runs for key in run.config}
    for key in label_keys:
        if key not in known:
            raise UserError(f"--label {key}: no run has this config key", hint=nearest(key, known))
    groups = list(members.values())
    configs = [group[0].config for group in groups]
    labels = _labels(configs, list(label_keys))
    # Without a config, or where configs cannot be told apart by what a label shows, the directory says which is which.
    repeated = {label for label, count in Counter(labels).items() if count > 1}
    names = [
        " ".join(filter(None, [label, group[0].path.resolve().name])) if label in repeated or not label else label
        for label, group in zip(labels, groups, strict=True)
    ]
    return [Group(name, group) for name, group in zip(names, groups, strict=True)]


def differing_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Config keys, other than the seed and names, whose value is not the same everywhere; well-known names first."""
    keys = {key: None for config in configs for key in config if key not in SEED_KEYS}
    different = [k for k in keys if len({_shown(config, k) for config in configs}) > 1]
    return sorted(different, key=lambda k: NAMING_KEYS.index(k) if k in NAMING_KEYS else len(NAMING_KEYS))


def _labels(configs: Sequence[Mapping[str, Any]], keys: list[str]) -> list[str]:
    def distinct(chosen: Sequence[str]) -> int:
        return len({tuple(_shown(config, k) for k in chosen) for config in configs})

    candidates = differing_keys(configs)
    if not keys and len(configs) == 1:
        keys = [k for k in NAMING_KEYS if k in configs[0]][:1]
    elif not keys:  # one key that tells all apart, if there is one
        keys = next(([k] for k in candidates if distinct([k]) == len(configs)), [])
    for key in candidates:  # otherwise add keys as long as they tell more apart
        if distinct(keys) == len(configs):
            break
        if distinct([*keys, key]) > distinct(keys):
            keys = [*keys, key]
    if keys in (["algorithm"], ["loss"]):  # names that say what they are
        return [_shown(config, keys[0]) for config in configs]
    return [", ".join(f"{key}={_shown(config, key)}" for key in keys) for config in configs]


def _shown(config: Mapping[str, Any], key: str) -> str:
    return str(config[key]) if key in config else "default"


def over_seeds(curves: Sequence[Mapping[int, float]]) -> list[Point]:
    """Mean and t-interval over runs at each step that all of them reached.

    Later steps are left out where a run was cut short: a mean over ever fewer seeds would compare different seeds.
    """
    if not curves:
        return []
    shared = sorted(set.intersection(*(set(curve) for curve in curves)))
    return [Point(step, t_interval([curve[step] for curve in curves])) for step in shared]


def held_out_over_seeds(group: Group, target: Target) -> list[Point]:
    """Held-out curve of a group. A single run keeps the interval over its problems, which the caller must say."""
    found = [run.evaluation[target] for run in group.runs if target in run.evaluation]
    if len(found) == 1:
        return found[0]
    return over_seeds([{p.step: p.estimate.value for p in points} for points in found])
