"""Several processes learn what one does: held-out accuracy after the same training in one process, in N that each keep
all weights (DDP), and in N that divide them (FSDP2).

    uv run python -m benchmarks.processes --json FILE                     two processes on the CPU, over gloo
    uv run python -m benchmarks.processes --only GRPO --seeds 3

Runs that are finished are kept, so that the command can be ended and goes on. tests/several_processes.py compares
single steps: gradients differ by rounding alone. Rounding grows over many steps, by now and then another token of a
completion, so that what is compared here is what was learned.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.race import write_json

SHARED = ("--profile", "laptop", "--quiet", "--device", "cpu", "--precision", "fp32", "--eval_every", "0")
# The laptop profile, shortened to what shows that something was learned.
TRAINERS: dict[str, tuple[str, ...]] = {
    "GRPO": ("policy_gradients.train", "--max_steps", "10", "--eval_problems", "300"),
    "DPO": ("direct_alignment.train", "--max_steps", "40", "--eval_problems", "300", "--eval_samples", "0"),
    "preference RM": ("reward_models.train_preference_rm", "--max_steps", "150"),
}
MODES: dict[str, tuple[str, ...]] = {"one": (), "DDP": (), "FSDP2": ("--fsdp", "true")}


def train(folder: Path, name: str, mode: str, seed: int, *, processes: int) -> Path:
    """A run, which is made if it is not there."""
    run = folder / f"{name.replace(' ', '_')}-{mode}-seed{seed}"
    if not (run / "final").exists():
        module, *settings = TRAINERS[name]
        several = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
        launcher = [sys.executable, "-m", *(several if mode != "one" else []), module]
        run_settings = [*SHARED, *settings, *MODES[mode], "--seed", str(seed), "--output_dir", str(run), "--overwrite"]
        subprocess.run([*launcher, *run_settings], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return run


def compare(folder: Path, name: str, *, processes: int, seeds: int) -> dict[str, Any]:
    """Accuracy before and after, of each mode: its interval over problems with one seed, over seeds with several. And
    what differs from one process by seed: the accuracy, and the weights, relative to their norm."""
    from rlhf.statistics import paired_runs, t_interval

    found: dict[str, dict[str, Any]] = {}
    after: dict[str, dict[int, float]] = {}
    runs: dict[str, list[Path]] = {}
    for mode in MODES:
        runs[mode] = [train(folder, name, mode, seed, processes=processes) for seed in range(seeds)]
        accuracy = {seed: accuracies(run) for seed, run in enumerate(runs[mode])}
        after[mode] = {seed: records[-1]["value"] for seed, records in accuracy.items()}
        last = accuracy[0][-1]
        found[mode] = {
            "before": accuracy[0][0]["value"],
            "after": after[mode],
            "interval": t_interval(list(after[mode].values())) if seeds > 1 else [last["low"], last["high"]],
            "n": last["n"],
            "weights apart": [apart(run, one) for run, one in zip(runs[mode], runs["one"], strict=True)],
        }
        print(f"{name}, {mode}: {found[mode]}", flush=True)
    if seeds > 1:
        for mode in MODES:
            found[mode]["minus one"] = paired_runs(after[mode], after["one"])
    return found


def accuracies(run: Path) -> list[dict[str, Any]]:
    """Held-out accuracy at each evaluation; not that of subsets of the data, which comes behind it."""
    from rlhf.run.tracking import read_records

    found = [it for it in read_records(run / "eval.jsonl") if it["metric"] == "accuracy"]
    return [it for it in found if it["data"] == found[0]["data"]]


def apart(run: Path, other: Path) -> float:
    """|w - w'| / |w'| of the final weights of two runs."""
    from safetensors.torch import load_file

    its, others = (load_file(it / "final" / "model.safetensors") for it in (run, other))
    distance = sum(float((its[name].double() - weight.double()).square().sum()) for name, weight in others.items())
    return (distance / sum(float(weight.double().square().sum()) for weight in others.values())) ** 0.5


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processes", description=__doc__)
    parser.add_argument("--only", choices=TRAINERS, help="one trainer; all by default")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/processes"), help="of the runs")
    parser.add_argument("--json", type=Path, help="file of the results")
    options = parser.parse_args(argv)
    found = {}
    for name in [options.only] if options.only else TRAINERS:
        found[name] = compare(options.output_dir, name, processes=options.processes, seeds=options.seeds)
        write_json(options.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
