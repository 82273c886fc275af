"""SIGKILL at random, then --resume: uv run python -m benchmarks.kill_and_resume --kills 10

Every kind of trainer runs once undisturbed; then, `--kills` times, it is started, killed, and resumed until it ends.
The kills are spread over the whole life of a run; of every five, one waits for a checkpoint that is being written and
one for the final model. Compared with the undisturbed run: the final weights, and every log but what depends on the
clock. On a CPU in fp32 all must be equal, to the bit.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path

CLOCK = ("wall_s", "speed/", "time/", "memory/")
STREAMS = ("metrics", "eval", "samples", "advice")
SHORT = ["--profile", "laptop", "--quiet", "--device", "cpu", "--precision", "fp32", "--save_every", "1"]
PG = [
    "--eval_problems",
    "6",
    "--prompts_per_step",
    "2",
    "--group_size",
    "4",
    "--max_new_tokens",
    "24",
    "--max_steps",
    "5",
]
RM = [
    *("--data.problems", "40", "--data.held_out", "12", "--data.validation", "8", "--data.candidates", "4"),
    *("--batch_size", "6", "--max_steps", "6", "--eval_every", "1", "--patience", "4", "--lr", "0.01"),
]
DPO = [
    *(
        "--data.problems",
        "40",
        "--data.held_out",
        "8",
        "--eval_problems",
        "4",
        "--eval_samples",
        "4",
        "--data.candidates",
        "8",
    ),
    *("--batch_size", "4", "--max_new_tokens", "64", "--max_steps", "5"),
]
LONG = ["--prompts_per_step", "6", "--max_new_tokens", "64"]  # enough for some answers to be right
MOVING = ["--kl_coef", "0.1", "--kl_target", "0.01", "--sync_reference_every", "2", "--sync_reference_mix", "0.5"]
TRAINERS = {
    "REINFORCE, running baseline": ("policy_gradients.train", ["--algorithm", "reinforce", *PG]),
    "PPO, own critic": (
        "policy_gradients.train",
        ["--algorithm", "ppo", "--epochs_per_batch", "2", "--critic.warmup_batches", "1", *PG],
    ),
    "DAPO, stale, moving reference": (
        "policy_gradients.train",
        ["--algorithm", "dapo", "--resample_rounds", "1", "--staleness", "1", *MOVING, *PG, *LONG],
    ),
    "preference RM": ("reward_models.train_preference_rm", RM),
    "ORM": ("reward_models.train_orm", RM),
    "PRM": ("reward_models.train_prm", RM),
    "DPO, moving reference": (
        "direct_alignment.train",
        ["--loss", "dpo", "--eval_every", "2", "--sync_reference_every", "2", "--sync_reference_mix", "0.5", *DPO],
    ),
    "KTO, online, moving reference": (
        "direct_alignment.train",
        ["--loss", "kto", "--online_every", "3", "--sync_reference_every", "2", *DPO],
    ),
    "rejection sampling, rounds from the start": (
        "rejection_sampling.train",
        [
            *("--train_from", "start", "--prompts_per_round", "12", "--group_size", "4", "--steps_per_round", "2"),
            *("--batch_size", "4", "--max_steps", "6", "--max_new_tokens", "64", "--eval_problems", "4"),
        ],
    ),
    "distillation, following teacher": (
        "distillation.train",
        [*("--config", "self", "--sync_teacher_every", "2", "--steps_per_batch", "2"), *PG],
    ),
    "distillation, mixed texts": (
        "distillation.train",
        [*("--config", "on_policy", "--on_policy_share", "0.5", "--texts.problems", "6"), *PG],
    ),
    "SFT": (
        "instruction_tuning.train",
        [
            "--data.held_out",
            "8",
            "--eval_max_new_tokens",
            "24",
            "--batch_size",
            "4",
            "--max_steps",
            "6",
            "--eval_every",
            "3",
        ],
    ),
}


def warm_up() -> None:
    """Load here what every fork of this process would load for itself."""
    for module in {module for module, _ in TRAINERS.values()} | {"torch", "transformers", "accelerate", "datasets"}:
        import_module(module)
    import_module("rlhf.tasks.registry")
    import_module("rlhf.run.session")
    import_module("rlhf.report.charts").javascript()


def start(module: str, arguments: list[str], log: Path, *, environment: Mapping[str, str] | None = None) -> int:
    """The process id of a command, forked from this process, which has loaded torch already."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)  # pytest's is another file
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        from rlhf.errors import run_main

        os.environ.update(environment or {})
        sys.argv = [module, *arguments]
        sys.orig_argv = ["python", "-m", module, *arguments]
        code = run_main(import_module(module).main, debug=True)
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        os._exit(code)


def stop(process: int, number: signal.Signals) -> int | None:
    """Send a signal, and wait for the exit code."""
    with suppress(ProcessLookupError):
        os.kill(process, number)
    return wait(process)


def wait(process: int, until: Callable[[], bool] = lambda: False) -> int | None:
    """The exit code; None if `until` held before the process ended."""
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if until():
            return None
        time.sleep(0.002)


def contents(run: Path) -> dict[str, str | list[dict]]:
    """What must be equal."""
    found: dict[str, str | list[dict]] = {}
    for stream in STREAMS:
        file = run / f"{stream}.jsonl"
        records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        found[stream] = [{k: v for k, v in record.items() if not k.startswith(CLOCK)} for record in records]
    found["weights"] = hashlib.sha256((run / "final" / "model.safetensors").read_bytes()).hexdigest()
    found["left behind"] = [{"name": p.name} for p in run.iterdir() if p.name.startswith(".")]
    return found


def moment(number: int, kills: int, life: float, run: Path, chance: random.Random) -> tuple[str, Callable[[], bool]]:
    """When to kill: in words, and as a question."""
    if number % 5 == 1:
        step = chance.randint(1, 4)
        return f"writing checkpoint {step}", (run / "checkpoints" / f".partial_step_{step}").exists
    if number % 5 == 3:
        return "writing the final model", (run / ".partial_final").exists
    seconds = life * (number + chance.random()) / kills
    end = time.monotonic() + seconds
    return f"after {seconds:.1f} s", lambda: time.monotonic() > end


def trial(name: str, folder: Path, kills: int, chance: random.Random) -> list[str]:
    """What went wrong: nothing, it is to be hoped."""
    module, arguments = TRAINERS[name]
    arguments = [*SHORT, *arguments]
    whole, log = folder / "whole", folder / "log"
    for _ in range(2):  # the first fills caches
        shutil.rmtree(whole, ignore_errors=True)
        began = time.monotonic()
        if wait(start(module, [*arguments, "--output_dir", str(whole)], log)) != 0:
            return [f"the undisturbed run failed: {log.read_text()[-2000:]}"]
    life = time.monotonic() - began
    wanted, wrong, when = contents(whole), [], []
    for number in range(kills):
        run = folder / f"kill{number}"
        words, until = moment(number, kills, life, run, chance)
        process = start(module, [*arguments, "--output_dir", str(run)], log)
        if wait(process, until) is None:
            stop(process, signal.SIGKILL)
            done = sum(1 for _ in (run / "metrics.jsonl").open()) if (run / "metrics.jsonl").exists() else 0
            when.append(f"{words} (step {done})")
        else:
            when.append(f"{words}: it had ended")
        resume = ["--resume"] if (run / "config.yaml").exists() else []
        if (code := wait(start(module, [*arguments, "--output_dir", str(run), *resume], log))) != 0:
            wrong.append(f"killed {words}: resumed with exit code {code}: {log.read_text()[-1500:]}")
            continue
        found = contents(run)
        wrong += [f"killed {words}: {part} differ in {run}" for part in wanted if found[part] != wanted[part]]
        shutil.rmtree(run, ignore_errors=True)
    print(f"{name}: life {life:.1f} s; killed " + ", ".join(when), flush=True)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_and_resume", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=10, help="kills of every trainer (default: 10)")
    parser.add_argument("--only", default="", metavar="TEXT", help="trainers whose name holds this text")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    warm_up()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RLHF_CACHE"] = f"{folder}/cache"
        for number, name in enumerate(TRAINERS):
            if options.only.lower() not in name.lower():
                continue
            place = Path(folder) / str(number)
            place.mkdir()
            wrong = trial(name, place, options.kills, random.Random(f"{options.seed} {name}"))
            failed += bool(wrong)
            print(
                f"{name}: {options.kills} kills, {'all equal' if not wrong else 'NOT EQUAL'}",
                *wrong,
                sep="\n  ",
                flush=True,
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
