"""A chat, line by line: what is said goes to every model, and a line that begins with / is a command."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from rlhf.chat.conversation import Conversation
from rlhf.config.options import temperature
from rlhf.errors import UserError, nearest
from rlhf.tasks.problem import Problem, Task

DRAWN = 50  # held-out problems that /task goes through, then begins again

type Say = Callable[[str], None]


class Chat:
    """Models that are talked to at once, each with the conversation that it has had.

    Args:
        open_task: opens the task that /task draws from; it is called when the first problem is asked for.
        say: shows a piece of text; lines have their line breaks.
    """

    def __init__(
        self,
        conversations: Sequence[Conversation],
        open_task: Callable[[], Task],
        say: Say,
        *,
        show_prompt: bool = False,
    ):
        self.conversations = list(conversations)
        self.open_task, self.say, self.show_prompt = open_task, say, show_prompt
        self._problems: Iterator[Problem] | None = None

    def hear(self, line: str) -> bool:
        """Do what a line says; False if it ends the chat."""
        text = line.strip()
        if not text:
            return True
        if not text.startswith("/"):
            for conversation in self.conversations:
                self.answer(conversation, text)
            return True
        name, _, rest = text[1:].partition(" ")
        if name == "quit":
            return False
        if name not in COMMANDS:
            self.say(f"there is no command /{name}; {nearest(name, [*COMMANDS, 'quit'])}\n")
        else:
            COMMANDS[name](self, rest.strip())
        return True

    def answer(self, conversation: Conversation, text: str) -> str | None:
        """Ask one model, and show what it answers while it does; None if it could not be asked."""
        if self.show_prompt:
            self.say(f"[reads] {conversation.rendered(text)}\n")
        if len(self.conversations) > 1:
            self.say(f"{conversation.speaker.name}:\n")
        try:
            answer = conversation.ask(text, self.say)
        except UserError as error:  # too long for the model, say
            self.say(f"error: {error.message}\n  hint: /reset begins a new conversation\n")
            return None
        self.say("\n" if conversation.speaker.is_whole(answer) else " [cut off]\n")
        return answer.text

    # ------------------------------------------------------------------------------------------------------ commands

    def help(self, _rest: str) -> None:
        """what can be said here"""
        for name, command in COMMANDS.items():
            self.say(f"/{name:<14} {command.__doc__}\n")
        self.say(f"/{'quit':<14} end, as does the end of the input\n")

    def reset(self, _rest: str) -> None:
        """forget what was said; the system prompt stays"""
        for conversation in self.conversations:
            conversation.turns.clear()
        self.say("a new conversation\n")

    def system(self, rest: str) -> None:
        """TEXT: another system prompt and a new conversation; without TEXT none"""
        for conversation in self.conversations:
            conversation.system_prompt = rest or None
        self.reset("")

    def template(self, _rest: str) -> None:
        """the conversation as the model reads it, with its control tokens; '...' is what is said next"""
        for conversation in self.conversations:
            self.say(f"{conversation.speaker.name}:\n{conversation.rendered()}\n")

    def temperature(self, rest: str) -> None:
        """NUMBER: of sampling; 0 takes the likeliest token"""
        try:
            value = temperature(rest)
        except Exception as error:  # argparse's
            self.say(f"temperature {error}\n")
            return
        for conversation in self.conversations:
            speaker = conversation.speaker
            settings = speaker.settings.model_copy(update={"temperature": value})
            conversation.speaker = replace(speaker, settings=settings)
        self.say(f"temperature {value:g}\n")

    def task(self, _rest: str) -> None:
        """ask a held-out problem of the task in a new conversation, and verify the answers"""
        try:
            task, problem = self._next_problem()
        except UserError as error:
            self.say(f"error: {error.message}\n")
            return
        self.reset("")
        question = problem.prompt[-1]["content"] if problem.prompt else problem.question
        self.say(f"{question}\n\n")
        for conversation in self.conversations:
            conversation.turns.extend(problem.prompt[:-1])
            text = self.answer(conversation, question)
            if text is not None:
                self.say(f"[{in_words(task, problem, text)}]\n")

    def _next_problem(self) -> tuple[Task, Problem]:
        if self._problems is None:
            self._task = self.open_task()
            problems = self._task.held_out_problems(DRAWN)
            self._problems = (problems[i % len(problems)] for i in count())
        return self._task, next(self._problems)


def in_words(task: Task, problem: Problem, text: str) -> str:
    """The verdict on an answer."""
    verdict = task.verify(problem, text)
    if verdict is None:
        return f"{task.name} has no reference answers"
    if verdict.failed:
        return f"not verified: {verdict.failed}"
    read = "no answer was found" if verdict.answer is None else f"the answer read is {verdict.answer!r}"
    right = "right" if verdict.exact else f"wrong, {problem.answer!r} is right" if problem.answer else "wrong"
    return f"{right}; {read}{'' if verdict.format else '; not in the form asked for'}"


COMMANDS: Mapping[str, Callable[[Chat, str], Any]] = {
    "help": Chat.help,
    "reset": Chat.reset,
    "system": Chat.system,
    "template": Chat.template,
    "task": Chat.task,
    "temperature": Chat.temperature,
}
