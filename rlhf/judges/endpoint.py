"""A judge behind an OpenAI-compatible endpoint: calls that are bounded, counted, cached, and tried again.

One question is one call of `POST url/chat/completions`. An answer is cached by what was sent, so no question is paid
for twice. The key comes from the environment and goes into the header of the calls alone.
"""

import os
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from rlhf.cache import cached, key
from rlhf.errors import MAX_UNUSABLE, UserError, nearest
from rlhf.judges.config import JudgeConfig
from rlhf.judges.usage import Usage

TRIED_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}  # the server may answer later
NOT_READ = {400, 413, 422}  # the server does not take this one question, such as one that is too long
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
SHOWN = 200  # characters of what a server said


@dataclass(frozen=True)
class Refusal:
    """A question that the server did not take, and why."""

    reason: str


class Endpoint:
    """A `Chooser` that asks a server.

    Args:
        wait: sleeps for so many seconds.

    Raises:
        UserError: nothing answers at the address, the key is refused, or the model is not served there.
    """

    def __init__(self, config: JudgeConfig, *, wait: Callable[[float], None] = time.sleep):
        assert config.url is not None
        self.config = config
        self.url = config.url
        self.usage = Usage()
        self.wait = wait
        self.secret = os.environ.get(config.key_from, "") if config.key_from else ""
        headers = {"Authorization": f"Bearer {self.secret}"} if self.secret else {}
        self.client = httpx2.Client(headers=headers, timeout=config.timeout_s)
        self._refuse_unserved_model()

    def choose(self, questions: Sequence[str], choices: tuple[str, str]) -> list[float | None]:
        """1 where the reply names the first choice, 0 the second, None where it names neither or both, or the server
        did not take the question.

        Raises:
            UserError: the server is gone, or more than 5 % of the questions are not taken.
        """
        asked = list(dict.fromkeys(questions))
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            waiting = [pool.submit(self._reply, question) for question in asked]
            try:
                replies = dict(zip(asked, (it.result() for it in waiting), strict=True))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        refusals = [reply for reply in replies.values() if isinstance(reply, Refusal)]
        self.usage.add(refused=len(refusals))
        if len(refusals) > MAX_UNUSABLE * len(asked):
            raise UserError(
                f"judge: {self.url} did not take {len(refusals)} of {len(asked)} questions: {refusals[0].reason}",
                hint="A question that is too long needs a model that reads more tokens, or shorter answers.",
            )
        verdicts = {question: read_choice(reply, choices) for question, reply in replies.items()}
        unread = sum(verdicts[it] is None and not isinstance(replies[it], Refusal) for it in asked)
        self.usage.add(malformed=unread)
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
            return self._call(body)

        try:
            reply = cached("judge", key(self.url, body, "judge 1"), call)
        except _NotTakenError as error:
            return Refusal(str(error))
        tokens = {"tokens_in": reply["tokens_in"], "tokens_out": reply["tokens_out"]}
        self.usage.add(**({"calls": 1} | tokens if called else {"cached": 1}))
        return reply["text"]

    def _call(self, body: dict[str, Any]) -> dict[str, Any]:
        response = self._tried("POST", "chat/completions", body)
        try:
            answer = response.json()
            text = answer["choices"][0]["message"].get("content") or ""
            usage = answer.get("usage") or {}
            counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise self._error(f"answers something else than a chat completion: {response.text[:SHOWN]!r}") from error
        return {"text": str(text), "tokens_in": counts[0], "tokens_out": counts[1]}

    def _tried(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx2.Response:
        """The server's answer, after as many tries as `retries` allows.

        Raises:
            _NotTakenError: the server does not take this question.
            UserError: it is gone, or refuses all of them.
        """
        reason = ""
        for attempt in range(self.config.retries + 1):
            if attempt:
                self.usage.add(retries=1)
            try:
                response = self.client.request(method, f"{self.url}/{path}", json=body)
            except httpx2.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
                self.wait(waiting_time(attempt))
                continue
            if response.is_success:
                return response
            reason = f"status {response.status_code}: {self._without_secret(response.text)[:SHOWN]}"
            if response.status_code in NOT_READ:
                raise _NotTakenError(reason)
            if response.status_code not in TRIED_AGAIN:
                raise self._refused(response.status_code, reason)
            self.wait(waiting_time(attempt, response.headers.get("Retry-After", "")))
        raise self._error(f"gave no answer in {self.config.retries + 1} tries ({reason})")

    def _refuse_unserved_model(self) -> None:
        """Ask the server for its models, before anything is computed for it. One that has no such list is believed."""
        try:
            response = self.client.get(f"{self.url}/models")
        except httpx2.TransportError as error:
            raise self._error(f"cannot be reached ({type(error).__name__}: {error})") from error
        if response.status_code in (401, 403):
            raise self._refused(response.status_code, f"status {response.status_code}")
        try:
            served = [str(model["id"]) for model in response.json()["data"]]
        except (ValueError, LookupError, TypeError):
            return
        if served and self.config.model not in served:
            raise UserError(
                f"judge: model: {self.url} does not serve '{self.config.model}'", nearest(self.config.model, served)
            )

    def _refused(self, status: int, reason: str) -> UserError:
        if status not in (401, 403):
            return self._error(f"does not answer chat completions ({reason})")
        name = self.config.key_from
        hint = f"It was sent the key in {name}." if name else "Name the variable that has it: key_from: OPENAI_API_KEY."
        return UserError(f"judge: {self.url} asks for another key ({reason})", hint=hint)

    def _error(self, what: str) -> UserError:
        hint = "Is the server running, and is the address that of its API, such as http://localhost:8000/v1?"
        return UserError(f"judge: {self.url} {self._without_secret(what)}", hint=hint)

    def _without_secret(self, text: str) -> str:
        """Servers quote the key that they refuse."""
        return text.replace(self.secret, "...") if self.secret else text


class _NotTakenError(Exception):
    """The server does not take one question."""


def waiting_time(attempt: int, retry_after: str = "") -> float:
    """Seconds until the next try: what the server asks for, or twice as long each time; at most LONGEST_WAIT_S.

    >>> [waiting_time(n) for n in (0, 1, 2, 9)], waiting_time(0, "7")
    ([0.5, 1.0, 2.0, 30.0], 7.0)
    """
    wait = FIRST_WAIT_S * 2**attempt
    if retry_after.strip().isdigit():
        wait = float(retry_after)
    elif retry_after:
        with suppress(ValueError):
            wait = parsedate_to_datetime(retry_after).timestamp() - time.time()
    return min(max(0.0, wait), LONGEST_WAIT_S)


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
