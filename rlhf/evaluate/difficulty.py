"""How often a policy solves each training problem: uv run python -m rlhf.evaluate.difficulty MODEL --output FILE.jsonl

Samples answers to problems of the training stream, never to held-out ones, and writes a row for each problem. Training
with `--difficulty FILE.jsonl` then keeps those that are neither too easy nor too hard (rlhf/tasks/by_difficulty.py).
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from rlhf.config.options import Parser, mapping, whole
from rlhf.config.paths import user_path
from rlhf.errors import UserError, run_main
from rlhf.evaluate.asked import look, tasks_asked
from rlhf.generate.settings import add_settings, loading_settings, settings_of_command


def main(arguments: Sequence[str] | None = None) -> int:
    o = read_options(arguments)
    (settings,) = settings_of_command(o.models, o).values()
    asked = tasks_asked(o)
    if len(asked) > 1:
        raise UserError("--task: the run has several; difficulty is measured of one")
    look(o, asked)

    from rlhf.data.files import write_jsonl
    from rlhf.generate.speaker import Speaker
    from rlhf.random_keys import of_training
    from rlhf.tasks.problem import messages_for, refuse_unverified

    task = asked[0].open(settings.answer_in)
    refuse_unverified(task, "difficulty")
    speaker = Speaker.open(o.models[0], settings, **loading_settings(o))
    print(f"{o.models[0]}: {settings.in_words}", flush=True)
    numbered = dict(enumerate(task.train_problems(seed=o.seed, first=0, count=o.problems)))
    first_of = {problem.question: number for number, problem in reversed(numbered.items())}
    numbers = sorted(first_of.values())  # a stream may repeat a problem
    conversations = [messages_for(numbered[number], settings.system_prompt) for number in numbers]
    keys = [of_training(o.seed, number) for number in numbers]
    answers = speaker.answers(conversations, keys, completions=o.samples)
    success = []
    for number, own in zip(numbers, answers, strict=True):
        verdicts = [task.verify(numbered[number], answer.text) for answer in own]
        success.append(sum(verdict is not None and verdict.exact == 1 for verdict in verdicts) / o.samples)
    rows = [
        {"seed": o.seed, "number": number, "question": numbered[number].question, "success": rate, "samples": o.samples}
        for number, rate in zip(numbers, success, strict=True)
    ]
    write_jsonl(o.output, rows)
    print(in_words(success))
    print(f"rows: {o.output}")
    return 0


def in_words(success: Sequence[float]) -> str:
    """How many problems are solved how often, in fifths.

    >>> in_words([0.0, 0.0, 0.3, 0.9])
    'solved in 0-20 %: 2, 20-40 %: 1, 40-60 %: 0, 60-80 %: 0, 80-100 %: 1 of 4 problems'
    """
    counts: Counter[int] = Counter(min(4, int(5 * share)) for share in success)
    told = ", ".join(f"{20 * fifth}-{20 * fifth + 20} %: {counts[fifth]}" for fifth in range(5))
    return f"solved in {told} of {len(success)} problems"


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m rlhf.evaluate.difficulty", description="Measure how often a policy solves training problems."
    )
    add = parser.add_argument
    add("models", nargs=1, metavar="MODEL", help="embedded, a run, a folder, a Hub id: what is to be trained")
    add("--task", metavar="NAME", help="of reasoning-gym, step_arithmetic, or prompts (default: that of the run)")
    add("--task_config", type=mapping, default={}, metavar="{KEY: VALUE}", help="its parameters, as in training")
    add("--problems", type=whole(1), default=500, help="first problems of the training stream (default: 500)")
    add("--samples", type=whole(1), default=8, metavar="K", help="sampled answers to each (default: 8)")
    add("--seed", type=whole(0), default=0, help="of the training stream (default: 0)")
    add("--output", type=user_path, required=True, metavar="FILE.jsonl", help="a row for each problem")
    add("--debug", action="store_true", help="show the traceback of an error")
    add_settings(parser)
    parser.set_defaults(data=None, reward_model=None)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
