"""Best-of-n: uv run python -m rejection_sampling.best_of_n --reward_model runs/preference_rm-seed0

Answer each held-out problem m times, and give the best of n answers by a proxy: a reward model, an ensemble of several,
or, without one, the verifier itself. What the proxy says of it, and whether it is right (gold), for n = 1, 2, 4, ...:
expectations over all subsets of n of the m answers, exactly. Beside n stands how far best-of-n is from the policy:
log n - (n-1)/n nats if answers never tie, and what it is of these answers, which do.

RLHF Book, chapters 9 and 14. 95 % intervals are over problems drawn anew. Writes best_of_n.jsonl, .html and .png.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf.config.options import Parser, add_candidates, number, whole
from rlhf.config.paths import refuse_strangers, user_path
from rlhf.errors import UserError, run_main

BY_VERIFIER = "the verifier"
FILES = {"jsonl": b'{"', "png": b"\x89PNG\r\n\x1a\n"}  # and how they begin


def main(argv: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else list(argv)
    return run_main(lambda: write_best_of_n(read_options(arguments)), debug="--debug" in arguments)


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m rejection_sampling.best_of_n",
        description="Give the best of n answers by a proxy, and measure proxy, gold and KL against n.",
    )
    add = parser.add_argument
    folder = Path("runs/best_of_n")
    add("--output", type=user_path, default=folder, help=f"the folder to write to (default: {folder})")
    add_candidates(parser, problems=200, max_new_tokens=64, name="samples", count=128)
    add("--largest_n", type=whole(1), default=64, help="n is 1, 2, 4, ... up to it (default: 64)")
    add("--reward_model", nargs="+", default=[], metavar="RUN", help="the proxy, or several; none: the verifier")
    ways = ("mean", "min", "mean_minus_variance", "mean_minus_std")
    add("--combine", choices=ways, default="mean", help="how an ensemble's scores become one (default: mean)")
    add("--variance_weight", type=number(0), help="lambda of mean_minus_variance")
    steps = ("min", "product", "last")
    add("--steps", choices=steps, default="min", help="how a process model's scores become one (default: min)")
    add("--debug", action="store_true", help="show tracebacks")
    return parser.parse_args(arguments)


def write_best_of_n(o: argparse.Namespace) -> int:
    # What needs no PyTorch comes first.
    from rlhf.data.files import write_jsonl
    from rlhf.models.names import find_folder, find_policy
    from rlhf.report.html import BEGINNING
    from rlhf.tasks.names import refuse_unknown_task

    if o.problems < 2:
        raise UserError("--problems 1: intervals are over problems, of which one tells nothing")
    if o.largest_n > o.samples:
        raise UserError(f"--largest_n {o.largest_n}: only {o.samples} answers are sampled (--samples)")
    if o.combine != "mean" and len(o.reward_model) < 2:
        raise UserError(f"--combine {o.combine}: an ensemble has several reward models (--reward_model A B)")
    refuse_unknown_task(o.task, o.task_config)
    find_policy(o.model_name)
    for name in o.reward_model:
        find_folder(name, key="reward_model")
    for ending, beginning in {**FILES, "html": BEGINNING.encode()}.items():
        refuse_strangers(o.output / f"best_of_n.{ending}", beginning, "best-of-n of this project")

    from rejection_sampling.best_of_n_curves import curves
    from rejection_sampling.best_of_n_page import write_page
    from rlhf.statistics import in_brackets

    proxy, gold = proxy_and_gold(o)
    records = curves(proxy, gold, largest_n=o.largest_n, data=o.task)
    write_jsonl(o.output / "best_of_n.jsonl", records)
    for record in records:
        bound = f"  (at most {record['bound']:.3f})" if "bound" in record else ""
        print(f"n = {record['of']:<3} {record['metric']:<6} {record['value']:7.3f}{in_brackets(record)}{bound}")
    by = " + ".join(o.reward_model) or BY_VERIFIER
    for file in write_page(o.output, records, title=f"Best of n by {by}", facts=facts(o)):
        print(file)
    return 0


def proxy_and_gold(o: argparse.Namespace) -> tuple[Any, Any]:
    """Two arrays (b, m): what the proxy says of each answer, and whether it is right."""
    import numpy as np

    from rlhf.candidates import sample_candidates
    from rlhf.models.reward_model import RewardModel
    from rlhf.tasks.problem import messages_for, refuse_unverified
    from rlhf.tasks.registry import open_task

    task = open_task(o.task, o.task_config, answer_in=o.answer_in)
    refuse_unverified(task, "best-of-n")
    how = {"combine": o.combine, "variance_weight": o.variance_weight, "steps": o.steps}
    model = RewardModel(o.reward_model, **how) if o.reward_model else None
    candidates = sample_candidates(
        o.model_name,
        task,
        task.held_out_problems(o.problems),
        count=o.samples,
        max_new_tokens=o.max_new_tokens,
        seed=o.seed,
        temperature=o.temperature,
        system_prompt=o.system_prompt,
    )
    gold = np.array([[verdict.exact for _, verdict in one.judged] for one in candidates])
    if model is None:
        return gold, gold
    asked = [(messages_for(one.problem, o.system_prompt), one.answers) for one in candidates]
    return np.array(model.score(asked)), gold


def facts(o: argparse.Namespace) -> dict[str, object]:
    return {
        "policy": o.model_name,
        "proxy": " + ".join(o.reward_model) or BY_VERIFIER,
        "task": f"{o.task} {o.task_config or ''}".strip(),
        "answers": f"{o.problems} held-out problems x {o.samples} answers at temperature {o.temperature:g}",
        "seed": o.seed,
    }


if __name__ == "__main__":
    sys.exit(main())
