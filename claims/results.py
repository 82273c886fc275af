"""The numbers of a claim, from its runs or its computation, and the file that keeps them."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from inspect import getsource
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from claims.catalogue import open_claim
from claims.claim import Claim, Expect, Numbers
from claims.runs import Seed, planned
from claims.verdicts import Comparison, compare
from rlhf.config.recorded import read_provenance
from rlhf.errors import UserError
from rlhf.report.charts import finite
from rlhf.report.runs import read_run
from rlhf.run.sweep import make_all
from rlhf.run.tracking import code_version
from rlhf.system import processor

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Results:
    """What was found, by seed; `values` by measure and arm, `curves` by title and arm, each a list over seeds."""

    seeds: Sequence[int]
    values: Mapping[str, Mapping[str, Sequence[float]]]
    curves: Mapping[str, Mapping[str, Sequence[Sequence[tuple[float, float]]]]]
    seconds: float  # of training, or of computing, all arms and seeds, one core each
    commits: Sequence[str]
    processor: str

    def comparisons(self, claim: Claim) -> list[Comparison]:
        """Those of the claim's sentence, which make its verdict."""
        return self._compared(claim, claim.expected)

    def beside(self, claim: Claim) -> list[Comparison]:
        return self._compared(claim, claim.beside)

    def _compared(self, claim: Claim, expectations: Sequence[Expect]) -> list[Comparison]:
        found = []
        for expected in expectations:
            measure = claim.measure_of(expected)
            of_arms = self.values[measure.name]
            right = [expected.right] * len(self.seeds) if isinstance(expected.right, float | int) else None
            found.append(compare(expected, measure, of_arms[expected.left], right or of_arms[str(expected.right)]))
        return found

    def as_json(self) -> str:
        """A line for each field, so that the file can be looked at; what is no number is null."""
        lines = (f'"{name}": {json.dumps(value)}' for name, value in finite(asdict(self)).items())
        return "{\n" + ",\n".join(lines) + "\n}"


def read_results(name: str, file: Path) -> Results:
    """The results of a claim.

    Raises:
        OSError: there is no such file.
        UserError: the claim has got another arm, measure or curve since they were written.
    """
    found = json.loads(file.read_text(encoding="utf-8"))
    for of_arms in found["values"].values():
        for arm, values in of_arms.items():
            of_arms[arm] = [float("nan") if value is None else value for value in values]
    for of_arms in found["curves"].values():
        for arm, runs in of_arms.items():
            of_arms[arm] = [[(x, y) for x, y in points] for points in runs]
    results = Results(**found)
    if missing := _missing(open_claim(name), results):
        raise UserError(
            f"{file} has no {missing}, which the claim has", f"Make what is missing: python -m claims {name}."
        )
    return results


def _missing(claim: Claim, results: Results) -> str:
    """What a claim has and its results have not; "": nothing."""
    for measure in claim.measures:
        for arm in claim.arms:
            if arm not in results.values.get(measure.name, {}):
                return f"{measure.name} of {arm}"
    return next((curve.title for curve in claim.curves if curve.title not in results.curves), "")


def make_results(name: str, seeds: Sequence[int], folder: Path, *, at_once: int, quiet: bool) -> Results:
    """Make what is not there yet, and measure it.

    Raises:
        UserError: a run failed, or one of another setting is in its place.
    """
    claim = open_claim(name)
    if claim.compute:
        return _computed(name, seeds, at_once=at_once, quiet=quiet)
    folder.mkdir(parents=True, exist_ok=True)
    for round_ in planned(claim, seeds, folder):
        make_all(round_, at_once=at_once, quiet=quiet)
    each = [Seed(claim, seed, folder) for seed in seeds]
    numbers = _in_processes(partial(_measured, name, folder), seeds, at_once=at_once)
    runs = [path for one in each for path in one.paths.values() if path.is_dir()]
    versions = [read_provenance(path) for path in runs]
    return Results(
        seeds=list(seeds),
        values=_by_measure(claim, numbers),
        curves={
            curve.title: {
                arm: [list(curve.of_run(one.paths[arm])) for one in each] for arm in claim.arms if arm in each[0].paths
            }
            for curve in claim.curves
        },
        seconds=sum(read_run(path).seconds or 0.0 for path in runs),
        commits=sorted({_commit(version) for version in versions}),
        processor=processor(),
    )


def finished(claim: Claim, seeds: Sequence[int], folder: Path) -> list[int]:
    """The seeds of which all runs are there.

    Raises:
        UserError: there is none.
    """
    whole = [seed for seed in seeds if all(run.done for round_ in planned(claim, [seed], folder) for run in round_)]
    if not whole:
        raise UserError(f"{folder}: no seed has all its runs", "Leave --finished out, and they are made.")
    return whole


def _computed(name: str, seeds: Sequence[int], *, at_once: int, quiet: bool) -> Results:
    if not quiet:
        print(f"{name}: computing {len(seeds)} seeds", flush=True)
    found = _in_processes(partial(_compute, name), seeds, at_once=at_once)
    return Results(
        seeds=list(seeds),
        values=_by_measure(open_claim(name), [numbers for numbers, _ in found]),
        curves={},
        seconds=sum(seconds for _, seconds in found),
        commits=[_commit(code_version())],
        processor=processor(),
    )


def _in_processes[T](function: Any, seeds: Sequence[int], *, at_once: int) -> list[T]:
    """Of each seed, so many at a time, each in a process of its own with one thread; one at a time in this process."""
    if at_once == 1:
        return list(map(function, seeds))
    with ProcessPoolExecutor(at_once, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        return list(pool.map(function, seeds))


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _measured(name: str, folder: Path, seed: int) -> Numbers:
    """The numbers of the runs of a seed."""
    claim, paths = open_claim(name), Seed(open_claim(name), seed, folder).paths
    found = {
        arm: {measure.name: measure.of_run(paths[arm]) for measure in claim.measures if measure.of_run}
        for arm in claim.arms
        if arm in paths
    }
    more = claim.over_runs(paths) if claim.over_runs else {}
    return {arm: {**found.get(arm, {}), **more.get(arm, {})} for arm in claim.arms}


def _compute(name: str, seed: int) -> tuple[Numbers, float]:
    """The numbers of a seed, and how many seconds they took: computed once for the same code."""
    from rlhf.cache import cached, key

    compute = open_claim(name).compute
    assert compute is not None

    def make() -> tuple[Numbers, float]:
        began = time.monotonic()
        return compute(seed), time.monotonic() - began

    return cached("claims", key(name, seed, _code(compute)), make)


def _code(compute: Callable[[int], Numbers]) -> str:
    """A digest of the code that a computation may use, and of the embedded model: not of what a claim says of it."""
    digest = sha256(getsource(compute).encode())
    for package in ("rlhf", "policy_gradients", "claims/computed"):
        for file in sorted((ROOT / package).rglob("*")):
            if file.suffix in (".py", ".safetensors", ".json") and b"\nCLAIM = " not in file.read_bytes():
                digest.update(file.read_bytes())
    return digest.hexdigest()


def _by_measure(claim: Claim, numbers: Sequence[Numbers]) -> dict[str, dict[str, list[float]]]:
    """From a mapping of each seed to lists over seeds."""
    return {
        measure.name: {arm: [float(one[arm].get(measure.name, "nan")) for one in numbers] for arm in claim.arms}
        for measure in claim.measures
    }


def _commit(version: Mapping[str, Any]) -> str:
    """The start of a commit's hash, and whether the code was the commit's."""
    commit = str(version.get("git_commit") or "unknown")[:7]
    return f"{commit} with uncommitted changes" if version.get("git_dirty") else commit
