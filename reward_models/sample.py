"""Sample and verify: uv run python -m reward_models.sample --model_name runs/sft --output candidates.jsonl

Several completions of a policy to each problem, each labelled right or wrong: what an outcome model is trained on, as a
file to look at or to pass as `--data.path`. Cached, so that training with the same settings samples nothing again.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlhf.config.options import Parser, add_candidates
from rlhf.config.paths import user_path
from rlhf.errors import run_main

if TYPE_CHECKING:
    from rlhf.candidates import Candidates


def to_row(candidates: "Candidates") -> dict[str, Any]:
    """What an outcome model is trained on; of completions that say something, as they were sampled."""
    from rlhf.data.answers import to_columns

    judged = [(answer, verdict.exact == 1) for answer, verdict in candidates.judged if answer.text.strip()]
    answers = [answer for answer, _ in judged]
    return {
        "question": candidates.problem.question,
        "answer": candidates.problem.answer,
        "completions": [answer.text for answer in answers],
        "labels": [right for _, right in judged],
        **to_columns(answers),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m reward_models.sample", description="Sample and verify candidates.")
    add = parser.add_argument
    add("--output", required=True, type=user_path, metavar="FILE.jsonl", help="file to write")
    add_candidates(parser, problems=500, max_new_tokens=96)
    add("--debug", action="store_true", help="show the traceback of an error")
    o = parser.parse_args(arguments)
    # What needs no PyTorch comes first.
    from rlhf.data.files import refuse_output, write_jsonl
    from rlhf.models.names import find_policy
    from rlhf.tasks.names import refuse_unknown_task

    refuse_output(o.output)
    refuse_unknown_task(o.task, o.task_config)
    find_policy(o.model_name)

    from rlhf.candidates import distinct_problems, sample_candidates
    from rlhf.tasks.problem import refuse_unverified
    from rlhf.tasks.registry import open_task

    task = open_task(o.task, o.task_config, answer_in=o.answer_in)
    refuse_unverified(task, "sampling labelled solutions")
    problems = distinct_problems(task, seed=o.seed, count=o.problems)
    candidates = sample_candidates(
        o.model_name,
        task,
        problems,
        count=o.candidates,
        max_new_tokens=o.max_new_tokens,
        seed=o.seed,
        temperature=o.temperature,
        system_prompt=o.system_prompt,
    )
    write_jsonl(o.output, map(to_row, candidates))
    right = sum(verdict.exact for one in candidates for _, verdict in one.judged)
    count = sum(len(one.texts) for one in candidates)
    print(f"{count} completions of {len(candidates)} problems, {right / count:.3f} right: {o.output}")


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
