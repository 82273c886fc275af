"""Compare selections on one task: uv run python -m rejection_sampling.compare --selections all --seeds 3

Each selection with its own config, beside the random control of its size, and the same budget: prompts, completions,
steps, model, held-out problems. Writes one page, one picture and one table. After an interruption the same command
continues.
"""

import sys
from pathlib import Path
from typing import get_args

from rejection_sampling.config import RejectionSamplingConfig, Selection, fill
from rlhf.config.command import Command, read_command
from rlhf.errors import run_main

CONFIGS = Path(__file__).parent / "configs"
# Settings that must be equal for a fair comparison.
BUDGET = (
    *("model_name", "task", "task_config", "tasks", "reward_model", "prompts_per_round", "group_size"),
    *("max_new_tokens", "steps_per_round", "max_steps", "batch_size", "train_from"),
)


def read(name: str, seed: int, shared: list[str]) -> tuple[list[str], Command[RejectionSamplingConfig]]:
    """The arguments of one run and its resolved command."""
    arguments = ["--config", str(CONFIGS / f"{name}.yaml"), "--seed", str(seed), *shared]
    command = read_command(
        RejectionSamplingConfig, arguments, prog="python -m rejection_sampling.train", description="", fill=fill
    )
    return arguments, command


def main() -> int | None:
    from rlhf.run.compare import compare

    return compare(
        "python -m rejection_sampling.compare",
        what="selections",
        key="selection",
        names=list(get_args(Selection)),
        folder="runs/compare_selections",
        example="--task step_arithmetic --max_steps 60",
        budget=BUDGET,
        read=read,
        equal=("steps", "sampled_tokens"),
    )


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
