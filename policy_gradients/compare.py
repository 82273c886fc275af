"""Compare algorithms on one task: uv run python -m policy_gradients.compare --algorithms all --seeds 3

Every algorithm with its own config and the same budget: prompts, completions, batches, model, held-out problems. Writes
one page, one picture and one table. After an interruption the same command continues.

Algorithms take one optimizer step on a batch, or several, as their configs say; the table counts them. With `--equal
optimizer_steps` all take the same number of those, and those that take several have fewer batches. With `--equal
sampled_tokens` all are read where they have sampled as many tokens.
"""

import sys
from pathlib import Path

from policy_gradients.algorithms import names
from policy_gradients.config import PolicyGradientConfig
from policy_gradients.fill import fill
from rlhf.config.command import Command, read_command
from rlhf.errors import UserError, run_main

CONFIGS = Path(__file__).parent / "configs"
# Settings that must be equal for a fair comparison.
BUDGET = ("model_name", "task", "task_config", "tasks", "max_steps", "prompts_per_step", "group_size", "max_new_tokens")


def read(name: str, seed: int, shared: list[str]) -> tuple[list[str], Command[PolicyGradientConfig]]:
    """The arguments of one run and its resolved command."""
    arguments = ["--config", str(CONFIGS / f"{name}.yaml"), "--seed", str(seed), *shared]
    command = read_command(
        PolicyGradientConfig, arguments, prog="python -m policy_gradients.train", description="", fill=fill
    )
    return arguments, command


def batches(config: PolicyGradientConfig) -> int:
    """The batches in which an algorithm takes `max_steps` optimizer steps, after those in which the critic warms up.

    Raises:
        UserError: it takes several on a batch, and they do not add up to that number.
    """
    from policy_gradients.defaults import resolve

    recipe = resolve(config)
    if config.max_steps % recipe.updates:
        fits = -(-config.max_steps // recipe.updates) * recipe.updates
        raise UserError(
            f"max_steps {config.max_steps}: {config.algorithm} takes {recipe.updates} optimizer steps on a batch, "
            "which do not add up to that",
            hint=f"--max_steps {fits}, for example.",
        )
    return config.max_steps // recipe.updates + recipe.critic_warmup_steps


def main() -> int | None:
    from rlhf.run.compare import compare

    return compare(
        "python -m policy_gradients.compare",
        what="algorithms",
        key="algorithm",
        names=names(),
        folder="runs/compare",
        example="--task step_arithmetic --max_steps 60",
        budget=BUDGET,
        read=read,
        equal=("batches", "optimizer_steps", "sampled_tokens"),
        batches=batches,
    )


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
