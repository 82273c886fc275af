"""Complete prompts: uv run python -m rlhf.generate runs/grpo-seed0 --prompts mine.jsonl --output answers.jsonl

Rows keep their columns and get a `completion`, or with --samples several `completions`, as reward_models.score and the
trainers read them. A completion depends on the model, its settings, the seed and its prompt, not on the rows beside it.
What has been sampled is kept in the cache, so a command that was stopped goes on where it was.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rlhf.config.options import Parser, seed, whole
from rlhf.config.paths import user_path
from rlhf.errors import UserError, run_main
from rlhf.generate.settings import add_settings, loading_settings, settings_of_command

if TYPE_CHECKING:
    from rlhf.data.answers import Answer
    from rlhf.data.rows import Row

WRITTEN = ("completion", "completions", "ended", "tokens", "vocabulary")  # columns


def main(arguments: Sequence[str] | None = None) -> int:
    o = read_options(arguments)
    settings = settings_of_command([o.model], o)[o.model]
    # What needs no PyTorch comes first.
    from rlhf.data.files import refuse_output, write_jsonl
    from rlhf.data.rows import load_rows, refuse_missing, usable

    refuse_output(o.output, reads=o.prompts)
    refuse_missing(o.prompts, key="--prompts")

    from rlhf.generate.conversations import parse_prompt
    from rlhf.generate.in_chunks import answers_in_chunks
    from rlhf.generate.speaker import Speaker
    from rlhf.tasks.problem import with_system

    rows = usable(load_rows(o.prompts, split=o.split), lambda row: (row, parse_prompt(row)), say=print)
    refuse_columns((row for row, _ in rows), WRITTEN if o.column is None else [o.column])
    speaker = Speaker.open(o.model, settings, **loading_settings(o))
    print(f"{o.model}: {settings.in_words}", flush=True)
    conversations = [with_system(messages, settings.system_prompt) for _, messages in rows]
    answers = answers_in_chunks(speaker, conversations, completions=o.samples, seed=o.seed, say=print)
    write_jsonl(o.output, [to_row(row, own, o.column) for (row, _), own in zip(rows, answers, strict=True)])
    cut = sum(not speaker.is_whole(answer) for own in answers for answer in own)
    print(f"{len(rows) * o.samples} completions of {len(rows)} prompts, {cut} of them cut off: {o.output}")
    return 0


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m rlhf.generate", description="Complete a file of prompts.")
    add = parser.add_argument
    add("model", metavar="MODEL", help="embedded, a run, a folder or a Hub id")
    add("--prompts", required=True, metavar="FILE", help="file, folder or Hub set with prompts; see docs/data.md")
    add("--split", default="train", help="of a folder or Hub set (default: train)")
    add("--output", required=True, type=user_path, metavar="FILE.jsonl", help="file to write")
    add("--samples", type=whole(1), default=1, metavar="K", help="completions of each prompt (default: 1)")
    add("--column", metavar="NAME", help="write the text alone, into this column (default: completion or completions)")
    add("--seed", type=seed, default=0, help="of the sampling (default: 0)")
    add("--debug", action="store_true", help="show the traceback of an error")
    add_settings(parser, leave_out=["answer_in"])
    return parser.parse_args(arguments)


def refuse_columns(rows: "Iterable[Row]", written: Sequence[str]) -> None:
    """Raises: UserError, if a row has a column that would be written over."""
    for row in rows:
        if taken := [name for name in written if name in row]:
            raise UserError(
                f"--prompts: the rows have {' and '.join(taken)} already, which would be written over",
                hint="--column NAME writes the completions into a column of that name.",
            )


def to_row(row: "Row", answers: "Sequence[Answer]", column: str | None) -> dict[str, Any]:
    """The row with its completion or completions; in the usual columns also how they were sampled."""
    from rlhf.data.answers import to_columns

    texts = [answer.text for answer in answers]
    one = len(texts) == 1
    if column is not None:
        return {**row, column: texts[0] if one else texts}
    return {**row, **({"completion": texts[0]} if one else {"completions": texts}), **to_columns(answers)}


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
