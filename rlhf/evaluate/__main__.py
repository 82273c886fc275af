"""Evaluate policies: uv run python -m rlhf.evaluate runs/grpo-seed0 --samples 16

On the held-out problems of the run's own task, of another (--task), or on prompts of a file (--data): accuracy of the
likeliest and of sampled answers, pass@k and majority vote, with 95 % intervals over problems. Several models answer the
same problems with the same random numbers; the others are compared with the first, problem by problem.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf.config.options import Parser, mapping, whole
from rlhf.config.paths import user_path
from rlhf.errors import UserError, run_main
from rlhf.evaluate.asked import look, tasks_asked
from rlhf.generate.settings import GenerationSettings, add_settings, loading_settings, settings_of_command

if TYPE_CHECKING:
    from rlhf.evaluate.measures import Attempts
    from rlhf.models.reward_model import RewardModel
    from rlhf.tasks.problem import Task

MOST_SAMPLES = 10_000


def main(arguments: Sequence[str] | None = None) -> int:
    o = read_options(arguments)
    settings = settings_of_command(o.models, o)
    tasks = tasks_asked(o)
    look(o, tasks)

    from rlhf.data.files import write_jsonl
    from rlhf.evaluate.table import show

    reward_model = open_reward_model(o)
    opened = [{answer_in: task.open(answer_in) for answer_in in answers_in(settings)} for task in tasks]
    refuse_unrewarded([next(iter(by_form.values())) for by_form in opened], reward_model is not None)
    attempts = [attempts_of(model, settings[model], opened, o, reward_model) for model in o.models]
    found = []
    for number, by_form in enumerate(opened):
        name = next(iter(by_form.values())).name
        found += show(name, {model: own[number] for model, own in zip(o.models, attempts, strict=True)}, settings)
    if o.output:
        write_jsonl(o.output, found)
        print(f"{len(found)} records: {o.output}")
    return 0


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m rlhf.evaluate", description="Evaluate policies on held-out problems.")
    add = parser.add_argument
    add(
        "models",
        nargs="+",
        metavar="MODEL",
        help="embedded, a run, a folder, a Hub id; the others are compared with the first",
    )
    add("--task", metavar="NAME", help="of reasoning-gym, step_arithmetic, or prompts (default: that of the run)")
    add(
        "--data",
        metavar="FILE",
        help="prompts of a file or Hub set (docs/data.md): all are evaluated",
    )
    add("--task_config", type=mapping, default={}, metavar="{KEY: VALUE}", help="parameters: {match: number}")
    add("--problems", type=whole(1), default=200, help="held-out problems of each task, or prompts (default: 200)")
    add("--samples", type=whole(1, MOST_SAMPLES), default=8, metavar="K", help="sampled answers to each (default: 8)")
    add("--reward_model", metavar="RUN", help="scores the answers to prompts that have no reference answer")
    add("--output", type=user_path, metavar="FILE.jsonl", help="also write the records, one a line")
    add("--debug", action="store_true", help="show the traceback of an error")
    add_settings(parser)
    return parser.parse_args(arguments)


def answers_in(settings: Mapping[str, GenerationSettings]) -> list[str]:
    """The forms of answers that the models are read by."""
    return list(dict.fromkeys(own.answer_in for own in settings.values()))


def open_reward_model(o: argparse.Namespace) -> "RewardModel | None":
    if not o.reward_model:
        return None
    from rlhf.models.reward_model import RewardModel

    return RewardModel([o.reward_model], device=o.device)


def refuse_unrewarded(tasks: "Sequence[Task]", rewarded: bool) -> None:
    """Raises: UserError, if answers can neither be verified nor scored; or if they would be scored in vain."""
    for task in tasks:
        if not task.verifies and not rewarded:
            raise UserError(
                f"task: {task.name} has no reference answers, so no answer is right or wrong",
                hint="--reward_model RUN measures the reward; or give the rows an answer, and match in task_config.",
            )
        if task.verifies and rewarded:
            raise UserError(f"--reward_model: answers to {task.name} are verified, and not scored")


def attempts_of(
    model: str,
    settings: GenerationSettings,
    tasks: "Sequence[Mapping[str, Task]]",
    o: argparse.Namespace,
    reward_model: "RewardModel | None",
) -> "list[Attempts]":
    """The model's attempts at each task; it is loaded for the time of these."""
    from rlhf.evaluate.attempts import attempt
    from rlhf.generate.speaker import Speaker

    speaker = Speaker.open(model, settings, **loading_settings(o))
    print(f"{model}: {settings.in_words}", flush=True)
    found = []
    for by_form in tasks:
        task = by_form[settings.answer_in]
        problems = task.held_out_problems(o.problems)
        found.append(attempt(speaker, task, problems, samples=o.samples, reward_model=reward_model))
    return found


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
