"""Compare reward models: uv run python -m reward_models.compare --trainers train_orm --vary orm_loss=tokens,last

The commands of the family, each with its own config, or settings of one of them, judged on the same held-out answers.
Every metric has a table of its own, which says nothing of models that do not have it. Writes one page, one picture and
the tables. After an interruption the same command continues.
"""

import sys
from importlib import import_module
from typing import Any

from rlhf.config.command import Command
from rlhf.errors import run_main

TRAINERS = ("train_preference_rm", "train_orm", "train_prm")
# Settings that must be equal for a fair comparison: those that make the held-out answers. The models that the three
# start from, and what they train on, are not equal where their configs say otherwise.
BUDGET = (
    *("data.path", "data.size", "data.policy", "data.task", "data.task_config", "data.answer_in", "data.candidates"),
    *("data.max_new_tokens", "data.seed", "data.held_out", "max_length"),
)


def read_one(name: str, seed: int, shared: list[str]) -> tuple[list[str], Command[Any]]:
    """The arguments of one run and its resolved command."""
    arguments = ["--seed", str(seed), *shared]
    return arguments, import_module(f"reward_models.{name}").read(arguments)


def main() -> int | None:
    from rlhf.run.compare import compare

    return compare(
        "python -m reward_models.compare",
        what="trainers",
        key="trainer",
        names=TRAINERS,
        folder="runs/compare_reward_models",
        example="--data.size 1000 --max_steps 60",
        budget=BUDGET,
        read=read_one,
        metrics=("accuracy", "auc", "macro_f1", r"best_of_\d+(_min|_product|_last)?"),
    )


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
