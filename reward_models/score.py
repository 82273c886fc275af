"""Score a file: uv run python -m reward_models.score runs/orm --data answers.jsonl --output scored.jsonl

Rows have `prompt` (or `question`) as text or messages, and `completion` (or `response`, `solution`) or a list
`completions`. Each row comes back with `reward`, or `rewards` in the order of its completions. Several models make an
ensemble.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.config.options import Parser, number
from rlhf.config.paths import user_path
from rlhf.errors import run_main

if TYPE_CHECKING:
    from rlhf.data.rows import Row
    from rlhf.models.reward_model import Conversation


def parse_answers(row: "Row") -> "tuple[Row, Conversation]":
    """The row, and its prompt with its answers.

    Raises:
        ValueError: with the reason.
    """
    from rlhf.data.answers import from_columns
    from rlhf.data.columns import JUDGEMENT, is_missing, kind_of, refuse_unused
    from rlhf.data.messages import CONTEXT
    from rlhf.data.preferences import AS_SAMPLED
    from rlhf.data.prompts import read_prompt

    prompt = read_prompt(row)
    if not prompt:
        raise ValueError(f"columns {sorted(row)}: wanted a prompt as text or messages{kind_of(row)}")
    refuse_unused(row, used=(*CONTEXT, *AS_SAMPLED, *JUDGEMENT, "input"))
    one = next((row[name] for name in ("completion", "response", "solution") if not is_missing(row.get(name))), None)
    given = [one] if is_missing(row.get("completions")) else row["completions"]
    answers = [a for a in given if isinstance(a, str) and a.strip()] if isinstance(given, list) else []
    if not answers or len(answers) < len(given):
        raise ValueError(f"wanted completion or completions as text that is not empty{kind_of(row)}")
    return row, (prompt, from_columns(row, answers))


def score(
    models: Sequence[str],
    data: str,
    output: Path,
    *,
    combine: Any,
    steps: Any,
    device: str,
    variance_weight: float | None = None,
) -> None:
    # What needs no PyTorch comes first.
    from rlhf.data.files import refuse_output, write_jsonl
    from rlhf.data.rows import load_rows, refuse_missing, usable
    from rlhf.models.names import find_folder

    refuse_output(output, reads=data)
    for name in models:
        find_folder(name, key="reward_model")
    refuse_missing(data, key="--data")

    from rlhf.data.columns import is_missing
    from rlhf.models.reward_model import RewardModel

    rows = usable(load_rows(data), parse_answers, say=print)
    model = RewardModel(models, combine=combine, variance_weight=variance_weight, steps=steps, device=device)
    rewards = model.score([c for _, c in rows])
    several = [not is_missing(row.get("completions")) for row, _ in rows]
    scored = [
        {**row, "rewards": own} if many else {**row, "reward": own[0]}
        for (row, _), own, many in zip(rows, rewards, several, strict=True)
    ]
    write_jsonl(output, scored)
    print(f"{len(rows)} rows scored: {output}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m reward_models.score", description="Score the answers of a file.")
    parser.add_argument("models", nargs="+", metavar="RUN", help="reward models; several are an ensemble")
    parser.add_argument("--data", required=True, metavar="FILE", help=".jsonl, .json, .parquet or .csv with answers")
    parser.add_argument("--output", required=True, type=user_path, metavar="FILE.jsonl", help="file to write")
    parser.add_argument(
        "--combine",
        choices=("mean", "min", "mean_minus_variance", "mean_minus_std"),
        default="mean",
        help="ensemble: the members' mean, the least of them, or the mean less their disagreement",
    )
    parser.add_argument("--variance_weight", type=number(0), metavar="LAMBDA", help="of mean_minus_variance (0.5)")
    parser.add_argument(
        "--steps", choices=("min", "product", "last"), default="min", help="process models: from steps to a solution"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    o = parser.parse_args(arguments)
    score(
        o.models,
        o.data,
        o.output,
        combine=o.combine,
        variance_weight=o.variance_weight,
        steps=o.steps,
        device=o.device,
    )


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
