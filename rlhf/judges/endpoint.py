"""A judge behind an OpenAI-compatible endpoint: one question is one call.

Replies are cached by what was sent, so no question is paid for twice.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.cache import cached, key
from rlhf.errors import MAX_UNUSABLE, UserError
from rlhf.judges.config import JudgeConfig
from rlhf.judges.server import NotTakenError, Server
from rlhf.judges.usage import Usage
from rlhf.servers.http import in_parallel


@dataclass(frozen=True)
class Refusal:
    """A question that the server did not take, and why."""

    reason: str


class Endpoint:
    """A `Chooser` that asks a server; `wait` sleeps for so many seconds."""

    def __init__(self, config: JudgeConfig, *, wait: Callable[[float], None] = time.sleep):
        self.config = config
        self.usage = Usage()
        self.server = Server(config, self.usage, wait=wait)

    def choose(self, questions: Sequence[str], choices: tuple[str, str]) -> list[float | None]:
        """1 where the reply names the first choice, 0 the second, None where it names neither or both, or the server
        did not take the question.

        Raises:
            UserError: the server is gone, or more than 5 % of the questions are not taken.
        """
        asked = list(dict.fromkeys(questions))
        replies = dict(zip(asked, in_parallel(self._reply, asked, at_once=self.config.concurrency), strict=True))
        refusals = [reply for reply in replies.values() if isinstance(reply, Refusal)]
        verdicts = {question: read_choice(reply, choices) for question, reply in replies.items()}
        without = sum(verdict is None for verdict in verdicts.values())
        self.usage.add(refused=len(refusals), malformed=without - len(refusals))
        if len(refusals) > MAX_UNUSABLE * len(asked):
            raise UserError(
                f"judge: {self.server.url} did not take {len(refusals)} of {len(asked)} questions: "
                f"{refusals[0].reason}",
                hint="A question that is too long needs a model that reads more tokens, or shorter answers.",
            )
        return [verdicts[question] for question in questions]

    def _reply(self, question: str) -> str | Refusal:
        body: dict[str, Any] = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": self.config.temperature,
            "max_tokens": self.config.max_tokens,
        }
        body = {name: value for name, value in body.items() if value is not None}
        called = False

        def call() -> dict[str, Any]:
            nonlocal called
            called = True
            return self.server.complete(body)

        try:
            reply = cached("judge", key(self.server.url, body, "judge 1"), call)
        except NotTakenError as error:
            return Refusal(str(error))
        tokens = {"tokens_in": reply["tokens_in"], "tokens_out": reply["tokens_out"]}
        self.usage.add(**({"calls": 1} | tokens if called else {"cached": 1}))
        return reply["text"]


def read_choice(reply: str | Refusal, choices: tuple[str, str]) -> float | None:
    """1 if the reply names the first choice, 0 the second, None if it names neither or both. Letters are read as they
    are written, words in any case; a thought (`<think>`) does not count.

    >>> [read_choice(text, ("A", "B")) for text in ("B", "Answer A.", "<think>A?</think>[[B]]", "a B", "A, not B")]
    [0.0, 1.0, 0.0, 0.0, None]
    >>> [read_choice(text, ("yes", "no")) for text in ("Yes.", "NO", "maybe", "")]
    [1.0, 0.0, None, None]
    """
    if isinstance(reply, Refusal):
        return None
    words = re.findall(r"\w+", reply.rpartition("</think>")[2])
    if not choices[0].isupper():
        words = [word.lower() for word in words]
    named = [choice in words for choice in choices]
    return None if all(named) or not any(named) else float(named[0])
