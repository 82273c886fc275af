"""Compare algorithms on one task: uv run python -m policy_gradients.compare --algorithms all --seeds 3

Every algorithm with its own config and the same budget: prompts, completions, steps, model, held-out problems. Writes
one page, one picture and one table. Interrupted, the same command goes on where it stopped.
"""

import sys
from dataclasses import replace
from pathlib import Path

from policy_gradients.algorithms import names
from policy_gradients.config import PolicyGradientConfig
from rlhf.config.command import Command, read_command
from rlhf.errors import run_main

CONFIGS = Path(__file__).parent / "configs"
# What must be the same for a comparison on equal terms.
BUDGET = ("model_name", "task", "task_config", "tasks", "max_steps", "prompts_per_step", "group_size", "max_new_tokens")


def main() -> int | None:
    from rlhf.run.sweep import choose, make_all, options, plan_runs, write_all

    given, shared = options(
        "python -m policy_gradients.compare",
        what="algorithms",
        folder="runs/compare",
        example="--task step_arithmetic --max_steps 60",
    )
    from policy_gradients.defaults import resolve

    def read(name: str, seed: int) -> tuple[list[str], Command[PolicyGradientConfig]]:
        arguments = ["--config", str(CONFIGS / f"{name}.yaml"), "--seed", str(seed), *shared]
        command = read_command(PolicyGradientConfig, arguments, prog="python -m policy_gradients.train", description="")
        return arguments, replace(command, config=resolve(command.config).config)

    chosen = choose("--algorithms", given.algorithms, names(), seeds=given.seeds)
    planned = plan_runs(chosen, seeds=given.seeds, folder=given.folder, key="algorithm", budget=BUDGET, read=read)
    make_all(planned)
    print(write_all(planned, given.folder, key="algorithm"))
    print(f"page:    {given.folder / 'comparison.html'}\npicture: {given.folder / 'comparison.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
