"""Calls of an OpenAI-compatible server: bounded in time, tried again, and with errors that say what is wrong.

The key comes from the environment and goes into the header of the calls alone. Light: nothing here loads PyTorch, so a
server that is not there is an error before anything is loaded.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from rlhf.errors import UserError, nearest
from rlhf.judges.config import JudgeConfig
from rlhf.judges.usage import Usage

KEY_REFUSED = {401, 403}
NOT_TAKEN = {400, 413, 422}  # this one question is not, such as one that is too long
TRIED_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}  # the server may answer later
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
SHOWN = 200  # characters of what a server said


class NotTakenError(Exception):
    """The server does not take one question."""


class Server:
    """The server of a judge.

    Args:
        usage: counts the calls that are tried again.
        wait: sleeps for so many seconds.
    """

    def __init__(self, config: JudgeConfig, usage: Usage, *, wait: Callable[[float], None] = time.sleep):
        assert config.url is not None
        self.config = config
        self.url = config.url
        self.usage = usage
        self.wait = wait
        self.secret = os.environ.get(config.key_from, "") if config.key_from else ""
        headers = {"Authorization": f"Bearer {self.secret}"} if self.secret else {}
        self.client = httpx2.Client(headers=headers, timeout=config.timeout_s)

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """The reply to a chat: its `text`, and `tokens_in` and `tokens_out` as the server counts them.

        Raises:
            NotTakenError: the server does not take this question.
            UserError: it is gone, refuses all questions, or is no such server.
        """
        response = self._tried("chat/completions", body)
        try:
            answer = response.json()
            text = answer["choices"][0]["message"].get("content") or ""
            usage = answer.get("usage") or {}
            tokens_in, tokens_out = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise self._error(f"answers something else than a chat completion: {response.text[:SHOWN]!r}") from error
        return {"text": str(text), "tokens_in": tokens_in, "tokens_out": tokens_out}

    def refuse_unserved_model(self) -> None:
        """Ask the server for its models. One that has no such list is believed.

        Raises:
            UserError: nothing answers at the address, the key is refused, or the model is not served there.
        """
        try:
            response = self.client.get(f"{self.url}/models")
        except httpx2.TransportError as error:
            raise self._error(f"cannot be reached ({type(error).__name__}: {error})") from error
        if response.status_code in KEY_REFUSED:
            raise self._refused(response.status_code, f"status {response.status_code}")
        try:
            served = [str(model["id"]) for model in response.json()["data"]]
        except (ValueError, LookupError, TypeError):
            return
        if served and self.config.model not in served:
            raise UserError(
                f"judge: model: {self.url} does not serve '{self.config.model}'", nearest(self.config.model, served)
            )

    def _tried(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        """The server's answer, after as many tries as `retries` allows."""
        reason = ""
        for attempt in range(self.config.retries + 1):
            if attempt:
                self.usage.add(retries=1)
            try:
                response = self.client.post(f"{self.url}/{path}", json=body)
            except httpx2.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
                self.wait(waiting_time(attempt))
                continue
            if response.is_success:
                return response
            reason = f"status {response.status_code}: {self._without_secret(response.text)[:SHOWN]}"
            if response.status_code in NOT_TAKEN:
                raise NotTakenError(reason)
            if response.status_code not in TRIED_AGAIN:
                raise self._refused(response.status_code, reason)
            self.wait(waiting_time(attempt, response.headers.get("Retry-After", "")))
        raise self._error(f"gave no answer in {self.config.retries + 1} tries ({reason})")

    def _refused(self, status: int, reason: str) -> UserError:
        if status not in KEY_REFUSED:
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
