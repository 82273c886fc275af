"""Every trainer for some steps, in as many processes as a launcher started, or in this one alone; and the comparison.

    uv run python tests/several_processes.py 2 3        the table: each trainer in two and three processes against one
    ... --more=--fsdp=true                              where each process has a share of the weights (FSDP2)

What must be equal is compared as exactly as fp32 allows on any processor. Several processes add up in another order, so
gradients differ by rounding: they are compared before the optimizer, relative to their size, by Adam's mean of
gradients in the checkpoint after the first step, which is (1 - beta1) times the gradient. The optimizer makes a step of
full size even of a gradient that is rounding alone, so weights are compared relative to how far the run went.
"""

import argparse
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
STEPS = 2
SHARED = [
    *("--profile", "laptop", "--quiet", "--device", "cpu", "--precision", "fp32", "--save_every", "1"),
    *("--keep_checkpoints", "9", "--eval_every", "0", "--max_steps", str(STEPS), "--lr", "1e-4"),
]
POLICY = [
    *("--eval_problems", "2", "--group_size", "4", "--prompts_per_step", "6", "--steps_per_batch", "1"),
    *("--token_budget", "400", "--warmup_steps", "0", "--max_new_tokens", "32"),
    *("--task_config", "{min_word_len: 3, max_word_len: 4}"),  # short enough that some answers are right
]
JUDGE = [
    *("--model_name", "embedded", "--batch_size", "6", "--extra_layers", "0", "--warmup_steps", "0"),
    *("--data.held_out", "4", "--data.validation", "4", "--token_budget", "120", "--patience", "0"),
]
# Steps of 6 or 12, which two and three processes can share, of texts of different lengths, in several micro-batches.
TRAINERS: dict[str, tuple[str, list[str]]] = {
    "SFT": ("instruction_tuning.train", ["--batch_size", "6", "--data.held_out", "3", "--token_budget", "120"]),
    "DPO": (
        "direct_alignment.train",
        [
            *("--loss", "dpo", "--task", "null", "--batch_size", "6", "--token_budget", "150", "--eval_samples", "2"),
            *("--max_new_tokens", "4", "--data.held_out", "4"),
        ],
    ),
    "preference": ("reward_models.train_preference_rm", [*JUDGE, "--data.pairs", "0"]),
    "outcome": ("reward_models.train_orm", [*JUDGE, "--data.pairs", "0"]),
    "process": ("reward_models.train_prm", JUDGE),
    "DAPO": (
        "policy_gradients.train",
        ["--algorithm", "dapo", "--resample_rounds", "2", "--kl_coef", "0.1", "--staleness", "1", *POLICY],
    ),
    "rejection": (
        "rejection_sampling.train",
        [
            *("--eval_problems", "2", "--group_size", "4", "--prompts_per_round", "7", "--batch_size", "6"),
            *("--steps_per_round", "2", "--token_budget", "400", "--max_new_tokens", "32"),
            *("--task_config", "{min_word_len: 3, max_word_len: 4}"),
        ],
    ),
    "distillation": (
        "distillation.train",
        [*("--on_policy_share", "0.5", "--texts.problems", "6", "--objective", "jsd"), *POLICY],
    ),
    "PPO": (
        "policy_gradients.train",
        ["--algorithm", "ppo", "--epochs_per_batch", "2", "--critic.warmup_batches", "0", *POLICY],
    ),
}


def write_data(folder: Path) -> None:
    """Texts of different lengths for the trainers that read files."""
    said = [" ".join(str(k) for k in range(i % 7 + 1)) for i in range(40)]
    rows: dict[str, list[dict[str, Any]]] = {
        "SFT": [
            {"messages": [{"role": "user", "content": f"count {i}"}, {"role": "assistant", "content": text}]}
            for i, text in enumerate(said)
        ],
        "DPO": [{"prompt": f"count {i}", "chosen": text, "rejected": f"no {i}"} for i, text in enumerate(said)],
        "outcome": [
            {"question": f"count {i}", "completions": [text, "no", f"{text} 9"], "labels": [True, False, i % 2 == 0]}
            for i, text in enumerate(said)
        ],
        "process": [
            {"prompt": f"count {i}", "completions": text.split(), "labels": [k % 3 != 2 for k in range(i % 7 + 1)]}
            for i, text in enumerate(said)
        ],
    }
    for name, content in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))


def run_all(folder: Path, names: Sequence[str], *, more: Sequence[str] = ()) -> None:
    """Train each into `folder/NAME`, in this process, with some `more` arguments."""
    from rlhf.errors import run_main

    for name in names:
        module, arguments = TRAINERS[name]
        data = folder.parent / f"{'DPO' if name == 'preference' else name}.jsonl"
        path = ["--data.path", str(data)] if data.exists() else []
        sys.argv = [module, *SHARED, *arguments, *path, "--output_dir", str(folder / name), "--debug", *more]
        code = run_main(importlib.import_module(module).main, debug=True)
        assert code == 0, f"{name}: exit code {code}"


def launch(
    processes: int, folder: Path, names: Sequence[str], *, then: str = "", more: Sequence[str] = ()
) -> subprocess.CompletedProcess:
    """`run_all` in so many processes; `then` is what they do at the end."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)),
        *(__file__, "--into", str(folder), "--names", *names, *(["--then", then] if then else [])),
        *(f"--more={argument}" for argument in more),
    ]
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return subprocess.run(command, capture_output=True, text=True, timeout=1200, env=environment, cwd=ROOT, check=False)


def cut_back(run: Path, copy: Path) -> Path:
    """A copy of a run of two steps as it was after the first, to be resumed."""
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints" / f"step_{STEPS}")
    shutil.rmtree(copy / "final")
    return copy


def fork(
    processes: int, folder: Path, names: Sequence[str], *, then: str = "", more: Sequence[str] = ()
) -> tuple[list[int], str]:
    """As `launch`, but forked from this process, which has loaded PyTorch already: exit codes, and what they said."""
    from accelerate.state import AcceleratorState

    from benchmarks.kill_and_resume import start, wait

    AcceleratorState._reset_state(reset_partial_state=True)  # of runs in this process, which knew of no other
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    log = folder.parent / f"{folder.name}.log"
    children = []
    for rank in range(processes):
        environment = {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
        arguments = ["--into", str(folder), "--names", *names, *(["--then", then] if then else [])]
        arguments += [f"--more={argument}" for argument in more]
        children.append(start("several_processes", arguments, log, environment=environment))
    return [wait(child) for child in children], log.read_text()


class Difference(NamedTuple):
    """Of a run in several processes from the same in one."""

    processes: int  # that there were
    gradient: float  # ||difference|| / ||gradient|| of the first step, the larger of policy and critic
    norm: float  # of the first step's gradient before clipping, relative
    completions: int  # found in both
    other_completions: int  # for the same prompt at the same step
    measured: float  # largest relative difference of what is measured of completions and data
    weights: float  # ||difference|| / how far the run in one went


def compare(one: Path, several: Path) -> Difference:
    import torch
    from safetensors.torch import load_file

    from rlhf.run.tracking import read_records

    def gradients(run: Path) -> list[torch.Tensor]:
        files = sorted((run / "checkpoints" / "step_1").glob("optimizer*.bin"))
        states = [torch.load(file, map_location="cpu", weights_only=True)["state"] for file in files]
        return [torch.cat([state[k]["exp_avg"].flatten() for k in sorted(state)]).double() for state in states]

    def weights(run: Path, step: int) -> torch.Tensor:
        state = load_file(run / "checkpoints" / f"step_{step}" / "model.safetensors")
        return torch.cat([state[name].flatten() for name in sorted(state)]).double()

    def relative(a: float, b: float) -> float:
        return abs(a - b) / max(abs(a), abs(b), 1e-12)

    def same_kind(record: Mapping[str, Any]) -> dict[str, float]:
        return {k: v for k, v in record.items() if k.startswith(("reward/", "groups/", "length/", "rows/"))}

    ours, theirs = gradients(several), gradients(one)
    logs = [read_records(run / "metrics.jsonl") for run in (one, several)]
    said = [
        {(r["step"], r["prompt"], r.get("written_by")): r["completion"] for r in read_records(run / "samples.jsonl")}
        for run in (one, several)
    ]
    shared = said[0].keys() & said[1].keys()
    went = (weights(one, STEPS) - weights(one, 1)).norm()
    measured = [relative(v, b[k]) for a, b in zip(*logs, strict=True) for k, v in same_kind(a).items()]
    return Difference(
        processes=json.loads((several / "provenance.json").read_text())["processes"],
        gradient=max(float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True)),
        norm=relative(logs[0][0]["optim/grad_norm"], logs[1][0]["optim/grad_norm"]),
        completions=len(shared),
        other_completions=sum(said[0][key] != said[1][key] for key in shared),
        measured=max(measured, default=0.0),
        weights=float((weights(one, STEPS) - weights(several, STEPS)).norm() / went),
    )


def other_metrics(run: Path, other: Path, *, step: int) -> dict[str, tuple[float, float]]:
    """Metrics of a step that differ between two runs by more than rounding; none that measures time or memory."""
    from rlhf.run.tracking import read_records

    one, two = (read_records(path / "metrics.jsonl")[step - 1] for path in (run, other))
    measured = {key for key in one if not key.startswith(("time/", "speed/", "memory/", "wall_s"))}
    return {key: (one[key], two[key]) for key in measured if abs(one[key] - two[key]) > 1e-5 * (abs(one[key]) + 1e-2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("processes", nargs="*", type=int, default=[2, 3], help="how many, each against one")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--names", nargs="+", choices=TRAINERS, default=list(TRAINERS), help="which trainers")
    parser.add_argument("--then", default="", help=argparse.SUPPRESS)
    parser.add_argument("--more", action="append", default=[], help="an argument of the runs in several processes")
    options = parser.parse_args()
    if options.into:
        run_all(options.into, options.names, more=options.more)
        if options.then == "fail in one":
            fail_in_one()
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["RLHF_CACHE"] = str(folder / "cache")
        write_data(folder)
        print("| trainer | processes | gradient | its norm | completions (other) | measured | weights |", flush=True)
        print("|---|---|---|---|---|---|---|")
        for count in (1, *options.processes):
            done = launch(count, folder / str(count), options.names, more=options.more if count > 1 else ())
            if done.returncode:
                sys.exit(done.stdout + done.stderr)
            for name in options.names if count > 1 else ():
                d = compare(folder / "1" / name, folder / str(count) / name)
                print(
                    f"| {name} | {d.processes} | {d.gradient:.1e} | {d.norm:.1e} | {d.completions} "
                    f"({d.other_completions}) | {d.measured:.1e} | {d.weights:.1e} |",
                    flush=True,
                )


def fail_in_one() -> None:
    """One process ends with an error while the others wait for it: they must end too."""
    import torch
    from accelerate import Accelerator

    from rlhf.errors import UserError, run_main

    accelerator = Accelerator(cpu=True)

    def fail() -> None:
        if accelerator.process_index == 1:
            raise UserError("this one ends alone")
        accelerator.reduce(torch.ones(1))

    sys.exit(run_main(fail, debug=False))


if __name__ == "__main__":
    main()
