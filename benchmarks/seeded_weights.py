"""The weights of short seeded runs, as digests: uv run python -m benchmarks.seeded_weights --write FILE

A change that only moves or renames code leaves every bit of every weight as it was. Run this before the change with
`--write FILE`, and after it with `--against FILE`: CPU, fp32, one thread, the embedded models, a few steps each.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SHORT = ["--profile", "laptop", "--quiet", "--device", "cpu", "--precision", "fp32", "--seed", "5"]
PG = [
    *("--config", "policy_gradients/configs/grpo.yaml"),  # for all alike: an algorithm's own file may get other sizes
    *("--eval_problems", "4", "--prompts_per_step", "6", "--group_size", "4"),
    *("--max_new_tokens", "64", "--max_steps", "4"),
]
RM = [
    *("--data.problems", "40", "--data.held_out", "12", "--data.validation", "8", "--data.candidates", "4"),
    *("--batch_size", "6", "--max_steps", "4", "--eval_every", "2", "--patience", "4", "--lr", "0.01"),
]
DPO = [
    *("--data.problems", "40", "--data.held_out", "8", "--data.candidates", "8"),
    *("--eval_problems", "4", "--eval_samples", "4"),
    *("--batch_size", "4", "--max_new_tokens", "64", "--max_steps", "4"),
]
SFT = ["--data.held_out", "8", "--eval_max_new_tokens", "24", "--batch_size", "4", "--max_steps", "4"]
DISTILL = [
    *("--eval_problems", "4", "--prompts_per_step", "6", "--group_size", "4"),
    *("--max_new_tokens", "64", "--max_steps", "4"),
]
RUNS = {
    "grpo": ("policy_gradients.train", ["--algorithm", "grpo", "--kl_coef", "0", *PG]),
    "ppo": ("policy_gradients.train", ["--algorithm", "ppo", "--epochs_per_batch", "2", "--kl_coef", "0.05", *PG]),
    "reinforce": ("policy_gradients.train", ["--algorithm", "reinforce", *PG]),
    "dapo, staleness 1": (
        "policy_gradients.train",
        ["--algorithm", "dapo", "--staleness", "1", "--resample_rounds", "1", "--truncated", "mask", *PG],
    ),
    "gspo, KL in the loss": (
        "policy_gradients.train",
        ["--algorithm", "gspo", "--kl_coef", "0.1", "--kl_in", "loss", "--steps_per_batch", "2", *PG],
    ),
    "rloo, KL in the reward": (
        "policy_gradients.train",
        ["--algorithm", "rloo", "--kl_coef", "0.1", "--kl_in", "reward", "--kl_target", "0.01", *PG],
    ),
    "cispo, importance": ("policy_gradients.train", ["--algorithm", "cispo", "--importance", "truncate", *PG]),
    "dpo": ("direct_alignment.train", ["--loss", "dpo", *DPO]),
    "kto": ("direct_alignment.train", ["--loss", "kto", *DPO]),
    "dpo, online": (
        "direct_alignment.train",
        ["--loss", "dpo", "--online_every", "2", "--sync_reference_every", "2", *DPO],
    ),
    "preference RM": ("reward_models.train_preference_rm", RM),
    "ORM": ("reward_models.train_orm", RM),
    "PRM": ("reward_models.train_prm", RM),
    "SFT": ("instruction_tuning.train", SFT),
    "rejection sampling": (
        "rejection_sampling.train",
        [
            *("--prompts_per_round", "20", "--group_size", "4", "--steps_per_round", "2", "--max_steps", "4"),
            *("--batch_size", "8", "--eval_problems", "4"),
        ],
    ),
    "distillation, on-policy": ("distillation.train", ["--config", "on_policy", *DISTILL]),
    "distillation, sampled token": (
        "distillation.train",
        ["--config", "on_policy", "--objective", "sampled_token", "--steps_per_batch", "2", *DISTILL],
    ),
    "distillation, offline": ("distillation.train", ["--config", "offline", "--texts.problems", "12", *DISTILL]),
    "distillation, self": ("distillation.train", ["--config", "self", "--teacher_top_k", "20", *DISTILL]),
}


def digest(module: str, arguments: list[str], folder: Path) -> str:
    """sha256 of a run's final weights, or how the run failed."""
    command = [sys.executable, "-W", "ignore", "-m", module, *SHORT, *arguments, "--output_dir", str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        return f"exit code {ran.returncode}: {ran.stderr[-400:]}"
    return hashlib.sha256((folder / "final" / "model.safetensors").read_bytes()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeded_weights", description=__doc__.split("\n")[0])
    parser.add_argument("--write", type=Path, metavar="FILE", help="where to write the digests, as JSON")
    parser.add_argument("--against", type=Path, metavar="FILE", help="digests to compare with")
    parser.add_argument("--only", default="", metavar="TEXT", help="runs whose name holds this text")
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    before = json.loads(options.against.read_text()) if options.against else {}
    found, differ = {}, 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RLHF_CACHE"] = f"{folder}/cache"
        for number, (name, (module, arguments)) in enumerate(RUNS.items()):
            if options.only.lower() not in name.lower():
                continue
            found[name] = digest(module, arguments, Path(folder) / str(number))
            verdict = "" if name not in before else "equal" if before[name] == found[name] else "DIFFERS"
            differ += verdict == "DIFFERS"
            print(f"{name:24s} {found[name][:16]} {verdict}", flush=True)
            if len(found[name]) != 64:
                print(found[name], flush=True)
    if options.write:
        options.write.write_text(json.dumps(found, indent=1) + "\n")
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main())
