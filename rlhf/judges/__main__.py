"""Audit a judge: uv run python -m rlhf.judges --judge embedded --output audit.jsonl

Pairs of a right and a wrong answer to each problem of a task, written by a policy and verified; or the pairs of a file
(`--data`), whose chosen answer is taken for the right one. The judge sees each pair in both orders. Agreement, and what
place and length do to it, are shown as a table, and written as records of eval.jsonl.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf.config.options import Parser, add_candidates, whole
from rlhf.config.paths import user_path
from rlhf.errors import UserError, run_main

if TYPE_CHECKING:
    from rlhf.data.preferences import Ranking


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m rlhf.judges", description="Audit a judge on pairs with a known better answer.")
    add = parser.add_argument
    add("--judge", required=True, metavar="JUDGE", help="a model's name, {url: .., model: ..}, or a .yaml file of it")
    add("--output", required=True, type=user_path, metavar="FILE.jsonl", help="file to write the records to")
    add("--data", metavar="FILE", help="pairs of a file or Hub set, instead of a policy's own answers")
    add("--split", default="train", help="split of a Hub set (default: train)")
    add("--max_samples", type=whole(1), help="first pairs of --data (default: all)")
    add_candidates(parser, problems=200, max_new_tokens=64, least=2)
    add("--per_problem", type=whole(1), default=1, help="pairs of each problem at most (default: 1)")
    add("--debug", action="store_true", help="show the traceback of an error")
    audit_judge(parser.parse_args(arguments))
    return 0


def audit_judge(options: argparse.Namespace) -> None:
    # What needs no PyTorch comes first.
    from rlhf.data.files import refuse_output, write_jsonl
    from rlhf.data.rows import refuse_missing
    from rlhf.judges.config import read_judge, refuse_missing_judge
    from rlhf.models.names import find_policy
    from rlhf.tasks.names import refuse_unknown_task

    refuse_output(options.output, reads=options.data or "")
    config = read_judge(options.judge)
    refuse_missing_judge(config)
    if options.data is not None:
        refuse_missing(options.data, key="--data")
    else:
        refuse_unknown_task(options.task, options.task_config)
        find_policy(options.model_name)

    from rlhf.judges.audit import METRICS, audit, gold_pairs
    from rlhf.judges.judge import open_judge
    from rlhf.statistics import in_brackets

    judge = open_judge(config)  # before the sampling, which a judge that is not there would make useless
    rankings = _of_file(options) if options.data else _of_task(options)
    if not rankings:
        raise UserError("there is no pair to judge: all answers to each problem are right, or all wrong")
    data = Path(options.data).name if options.data else options.task
    records = audit(judge, gold_pairs(rankings, seed=options.seed), data=data)
    write_jsonl(options.output, [{**it, "judge": config.name} for it in records])
    print(f"{config.name}, {len(rankings)} pairs of {data}:")
    for it in records:
        print(f"  {it['metric']:<26} {it['value']:.3f}{in_brackets(it):<17}  n = {it['n']:<6} {METRICS[it['metric']]}")
    for line in judge.usage.lines() if judge.usage else []:
        print(line)
    print(options.output)


def _of_task(options: argparse.Namespace) -> "list[Ranking]":
    """Pairs of a right and a wrong answer of the policy."""
    from rlhf.candidates import distinct_problems, sample_candidates, to_rankings
    from rlhf.tasks.problem import refuse_unverified
    from rlhf.tasks.registry import open_task

    task = open_task(options.task, options.task_config, answer_in=options.answer_in)
    refuse_unverified(task, "auditing a judge")
    candidates = sample_candidates(
        options.model_name,
        task,
        distinct_problems(task, seed=options.seed, count=options.problems),
        count=options.candidates,
        max_new_tokens=options.max_new_tokens,
        seed=options.seed,
        temperature=options.temperature,
        system_prompt=options.system_prompt,
    )
    return to_rankings(candidates, seed=options.seed, per_problem=options.per_problem)


def _of_file(options: argparse.Namespace) -> "list[Ranking]":
    from rlhf.data.preferences import parse_preference
    from rlhf.data.rows import load_rows, usable

    rows = load_rows(options.data, split=options.split)
    return usable(rows[: options.max_samples], parse_preference, say=print)


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
