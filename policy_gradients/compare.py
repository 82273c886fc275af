"""Compare algorithms on one task: uv run python -m policy_gradients.compare --algorithms all --seeds 3

Every algorithm with its own config and the same budget: prompts, completions, steps, model, held-out problems. Writes
one page, one picture and one table. Interrupted, the same command goes on where it stopped.
"""

import argparse
import sys
from pathlib import Path

from policy_gradients.config import ALGORITHM_NAMES, PolicyGradientConfig
from rlhf.config import read_command
from rlhf.errors import run_main

CONFIGS = Path(__file__).parent / "configs"
# What must be the same for a comparison on equal terms.
BUDGET = ("model_name", "task", "task_config", "tasks", "max_steps", "prompts_per_step", "group_size", "max_new_tokens")


def main() -> int | None:
    from rlhf.comparison import Planned, choose, make_all, refuse_unequal, write_all

    parser = argparse.ArgumentParser(
        prog="python -m policy_gradients.compare",
        description="Train with several algorithms and seeds, and lay the runs side by side.",
        epilog="Any setting of policy_gradients.train goes to every run, e.g. --task step_arithmetic --max_steps 60.",
    )
    parser.add_argument("--algorithms", default="all", metavar="A,B", help="names separated by commas (default: all)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (default: 3)")
    parser.add_argument("--folder", type=Path, default=Path("runs/compare"), help="where runs and results are written")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options, shared = parser.parse_known_args()

    names = choose("--algorithms", options.algorithms, ALGORITHM_NAMES, seeds=options.seeds)
    planned, budgets = [], {}
    for seed in range(options.seeds):  # all algorithms with one seed first: a first picture comes early
        for name in names:
            arguments = ["--config", str(CONFIGS / f"{name}.yaml"), "--seed", str(seed), *shared]
            command = read_command(PolicyGradientConfig, arguments, prog="", description="")  # refuses before any run
            budgets[name] = {key: getattr(command.config, key) for key in BUDGET}
            path = options.folder / f"{name}-seed{seed}"
            planned.append(Planned(f"{name}, seed {seed}", path, "policy_gradients.train", arguments))
    refuse_unequal(budgets)
    make_all(planned)
    print(write_all(planned, options.folder, key="algorithm"))
    print(f"page:    {options.folder / 'comparison.html'}\npicture: {options.folder / 'comparison.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
