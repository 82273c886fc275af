"""Compare objectives of distillation: uv run python -m distillation.compare --objectives all --seeds 3

Those that compare distributions on the student's own samples, and `sequence` on texts that the teacher wrote before,
with the same teacher, prompts, completions, batches and held-out problems. Writes one page, one picture and the tables.
After an interruption the same command continues.
"""

import sys
from pathlib import Path
from typing import get_args

from distillation.config import DistillationConfig
from distillation.train import read
from rlhf.config.command import Command
from rlhf.errors import run_main

CONFIGS = Path(__file__).parent / "configs"
OBJECTIVES = get_args(DistillationConfig.model_fields["objective"].annotation)
# Settings that must be equal for a fair comparison.
BUDGET = (
    *("model_name", "teacher", "teachers", "teacher_temperature", "teacher_sees", "task", "task_config", "tasks"),
    *("max_steps", "prompts_per_step", "group_size", "max_new_tokens"),
)


def read_one(name: str, seed: int, shared: list[str]) -> tuple[list[str], Command[DistillationConfig]]:
    """The arguments of one run and its resolved command."""
    config = "offline" if name == "sequence" else "on_policy"
    arguments = ["--config", str(CONFIGS / f"{config}.yaml"), "--objective", name, "--seed", str(seed), *shared]
    return arguments, read(arguments)


def main() -> int | None:
    from rlhf.run.compare import compare

    return compare(
        "python -m distillation.compare",
        what="objectives",
        key="objective",
        names=OBJECTIVES,
        folder="runs/compare_objectives",
        example="--task step_arithmetic --max_steps 60",
        budget=BUDGET,
        read=read_one,
        equal=("batches", "sampled_tokens"),
    )


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
