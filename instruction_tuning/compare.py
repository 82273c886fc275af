"""Compare losses of instruction tuning: uv run python -m instruction_tuning.compare --losses nll,dft --seeds 3

Each with the same conversations, steps, model and held-out problems. Writes one page, one picture and the tables. After
an interruption the same command continues.
"""

import sys
from typing import get_args

from instruction_tuning.config import InstructionTuningConfig
from instruction_tuning.train import read
from rlhf.config.command import Command
from rlhf.errors import run_main

LOSSES = get_args(InstructionTuningConfig.model_fields["loss"].annotation)
# Settings that must be equal for a fair comparison.
BUDGET = ("model_name", "scratch", "data", "max_steps", "batch_size", "max_length", "last_turn_only")


def read_one(name: str, seed: int, shared: list[str]) -> tuple[list[str], Command[InstructionTuningConfig]]:
    """The arguments of one run and its resolved command."""
    arguments = ["--loss", name, "--seed", str(seed), *shared]
    return arguments, read(arguments)


def main() -> int | None:
    from rlhf.run.compare import compare

    return compare(
        "python -m instruction_tuning.compare",
        what="losses",
        key="loss",
        names=LOSSES,
        folder="runs/compare_instruction_tuning",
        example="--data.path train.jsonl --max_steps 60",
        budget=BUDGET,
        read=read_one,
        metrics=("accuracy", "accuracy_greedy", "loss"),
    )


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
