"""Statistics of runs: curves smoothed and thinned, runs grouped over seeds, means with their t-intervals."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlhf.errors import UserError, nearest
from rlhf.report.runs import Point, Run, Target, read_run
from rlhf.report.spent import Budget, by_spent
from rlhf.statistics import t_interval

type Axis = Literal["steps"] | Budget

# Runs that differ only in these keys are repetitions of one experiment.
SEED_KEYS = frozenset({"seed", "output_dir", "wandb_run_name"})


# Keys whose values say by themselves what they are.
NAMES = ("algorithm", "loss", "selection", "objective")
# The keys that a label uses first.
NAMING_KEYS = ("trainer", *NAMES, "task", "tasks", "model_name", "data", "lr", "profile")


@dataclass(frozen=True)
class SeedGroup:
    """Runs of one configuration that differ only in their seed."""

    label: str
    runs: list[Run]


def group_runs(runs: Sequence[Run], label_keys: Sequence[str] = ()) -> list[SeedGroup]:
    """Group runs whose configs differ only in `SEED_KEYS`, in the order in which they were given.

    A directory named twice is one run. A second run of the same seed goes to another group, labelled by its directory:
    the spread of two runs of one seed is not a spread over seeds.
    The label shows `label_keys` if given, otherwise the fewest keys that tell the groups apart, well-known keys first.
    """
    runs = without_unknown_defaults(list({run.path.resolve(): run for run in runs}.values()), keep=label_keys)
    members: dict[str, list[Run]] = {}
    times: Counter[str] = Counter()  # how often settings with their seed have been seen
    for run in runs:
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
    # Groups without a config, or with equal labels, are named by a directory as well.
    repeated = {label for label, count in Counter(labels).items() if count > 1}
    names = [
        " ".join(filter(None, [label, group[0].path.resolve().name])) if label in repeated or not label else label
        for label, group in zip(labels, groups, strict=True)
    ]
    return [SeedGroup(name, group) for name, group in zip(names, groups, strict=True)]


def without_unknown_defaults(runs: Sequence[Run], *, keep: Sequence[str] = ()) -> list[Run]:
    """The runs without the settings that one of them does not know, as a run of older code, and that nobody gave where
    they are known: what holds is the default, in both. Keys that name a run stay, and those of `keep`."""
    known = [set(run.config) for run in runs if run.config]
    always = {*NAMING_KEYS, *keep, *(set.intersection(*known) if known else ())}
    return [_without(run, set(run.config) - always) for run in runs]


def _without(run: Run, keys: Set[str]) -> Run:
    """The run without those of these settings that nobody gave."""
    unset = run.unset & keys if keys else keys
    return replace(run, config={key: value for key, value in run.config.items() if key not in unset})


def read_groups(runs: Sequence[Path], label: str | Sequence[str] = (), *, by: Axis = "steps") -> list[SeedGroup]:
    """The runs, grouped over seeds.

    Args:
        label: config key or keys that name the groups; see `group_runs`.
        by: what their curves are laid along.

    Raises:
        UserError: there are no runs, one of them cannot be read, or it did not log what the curves are laid along.
    """
    keys = [label] if isinstance(label, str) else list(label)
    unique = list({Path(run).resolve(): Path(run) for run in runs}.values())  # the same directory twice is one run
    if not unique:
        raise UserError("no runs to compare", hint="name one or more run directories")
    found = [read_run(run) for run in unique]
    return group_runs(found if by == "steps" else by_spent(found, by), keys)


def differing_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Config keys outside `SEED_KEYS` whose values differ, well-known keys first."""
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
    if len(keys) == 1 and keys[0] in ("trainer", *NAMES):
        return [_shown(config, keys[0]) for config in configs]
    return [", ".join(f"{key}={_shown(config, key)}" for key in keys) for config in configs]


def _shown(config: Mapping[str, Any], key: str) -> str:
    value = str(config.get(key, "default"))
    return value.rpartition(".")[2] if key == "trainer" else value


def over_seeds(curves: Sequence[Mapping[int, float]]) -> list[Point]:
    """Mean and t-interval over runs at each step that all of them reached.

    Later steps are left out where a run was cut short: a mean over ever fewer seeds would compare different seeds.
    """
    if not curves:
        return []
    shared = sorted(set.intersection(*(set(curve) for curve in curves)))
    return [Point(step, t_interval([curve[step] for curve in curves])) for step in shared]


def held_out_over_seeds(group: SeedGroup, target: Target) -> list[Point]:
    """Held-out curve of a group. A single run keeps the interval over its problems; the caller has to label it so."""
    found = [run.evaluation[target] for run in group.runs if target in run.evaluation]
    if len(found) == 1:
        return found[0]
    return over_seeds([{p.step: p.estimate.value for p in points} for points in found])


def area_under(points: Sequence[tuple[float, float]], end: float) -> float | None:
    """Mean height of a curve from its first step to `end`, by trapezoids: (1/T) ∫ value d(step)."""
    if len(points) < 2 or end <= points[0][0]:
        return None
    steps, values = np.array(points, dtype=float).T
    inside = steps < end
    x, y = np.append(steps[inside], end), np.append(values[inside], np.interp(end, steps, values))
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


def smooth(steps: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Local linear regression at the steps `at`, with Gaussian weights of standard deviation 1/14 of the run.

    The window is centred, so the curve does not lag as an exponential average does. A line, unlike a mean, is not
    pulled towards the middle at both ends, where the result of a run is read. Fewer than 8 points, and curves without
    noise such as a learning-rate schedule, are only interpolated.
    """
    if len(steps) < 8 or np.median(np.abs(np.diff(values, 2))) < 1e-3 * np.ptp(values):
        return np.interp(at, steps, values)
    away = (steps[None, :] - at[:, None]) / ((steps[-1] - steps[0]) / 14)
    weights = np.exp(-0.5 * away**2)
    s0, s1, s2 = weights.sum(1), (weights * away).sum(1), (weights * away**2).sum(1) + 1e-6  # for a point far from all
    t0, t1 = weights @ values, (weights * away) @ values
    return (s2 * t0 - s1 * t1) / (s0 * s2 - s1**2)


def thin(values: np.ndarray, keep: int) -> np.ndarray:
    """Indices of about `keep` points: the lowest and the highest of each stretch, so that spikes stay."""
    if len(values) <= keep:
        return np.arange(len(values))
    stretches = np.array_split(np.arange(len(values)), keep // 2)
    return np.unique([i for s in stretches for i in (s[np.argmin(values[s])], s[np.argmax(values[s])])])
