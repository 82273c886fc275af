"""Talk to models: uv run python -m rlhf.chat runs/grpo-seed0 embedded

What you say goes to every model; each keeps the conversation. /help lists what else can be typed. Ctrl-C stops an
answer, Ctrl-D ends the chat. Through a pipe, each line is said in turn.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from rlhf.config.options import Parser, mapping, seed
from rlhf.errors import UserError, run_main
from rlhf.generate.settings import (
    add_settings,
    loading_settings,
    run_of,
    settings_of_command,
    tasks_of,
)
from rlhf.tasks.names import refuse_unknown_task

if TYPE_CHECKING:
    from rlhf.tasks.problem import Task


def main(arguments: Sequence[str] | None = None) -> int:
    o = read_options(arguments)
    settings = settings_of_command(o.models, o)
    task = task_asked(o)
    if o.task:
        refuse_unknown_task(o.task, o.task_config)

    from rlhf.chat.commands import Chat
    from rlhf.chat.conversation import Conversation
    from rlhf.generate.speaker import Speaker

    conversations = []
    for model in o.models:
        speaker = Speaker.open(model, settings[model], **loading_settings(o))
        conversations.append(Conversation(speaker, settings[model].system_prompt, o.seed))
        say(f"{model}: {settings[model].in_words}{of_run(model)}\n")
    say("/help lists the commands\n")
    answer_in = settings[o.models[0]].answer_in
    chat = Chat(conversations, lambda: open_drawn(task, answer_in), say, show_prompt=o.show_prompt)
    for line in lines():
        try:
            if not chat.hear(line):
                break
        except KeyboardInterrupt:
            say("\n[stopped]\n")
    return 0


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m rlhf.chat", description="Talk to one or several models.")
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL", help="embedded, a run, a folder or a Hub id")
    add("--task", metavar="NAME", help="the task that /task draws from (default: that of the run)")
    add("--task_config", type=mapping, default={}, metavar="{KEY: VALUE}", help="its parameters")
    add("--show_prompt", action="store_true", help="show what the model reads before each answer")
    add("--seed", type=seed, default=0, help="of the sampling (default: 0)")
    add("--debug", action="store_true", help="show the traceback of an error")
    add_settings(parser)
    return parser.parse_args(arguments)


def task_asked(o: argparse.Namespace) -> tuple[str, dict] | None:
    """Name and parameters of the task that problems are drawn from: the one asked for, or the first of the runs'."""
    if o.task:
        return o.task, o.task_config
    own = (task for model in o.models if (run := run_of(model)) for task in tasks_of(run).items())
    return next(own, None)


def open_drawn(task: tuple[str, dict] | None, answer_in: str) -> "Task":
    """Raises: UserError, if no task is known, or it cannot be had."""
    if task is None:
        raise UserError("no model here is a run with a task of its own: begin the chat with --task NAME")
    from rlhf.tasks.registry import open_task

    name, parameters = task
    return open_task(name, parameters, answer_in=answer_in)


def of_run(model: str) -> str:
    """That the settings are the run's own."""
    return f" (of {run}/config.yaml)" if (run := run_of(model)) else ""


def say(text: str) -> None:
    print(text, end="", flush=True)


def lines() -> Iterator[str]:
    """What the user types, or what comes through a pipe."""
    with suppress(ImportError):  # Windows has none
        import readline  # noqa: F401 - lets the user edit the line, and find earlier ones
    while True:
        try:
            yield input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        except KeyboardInterrupt:
            say("\n/quit, or Ctrl-D, ends the chat\n")


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
