"""Calls of a server over HTTP: bounded in time, tried again, and with errors that say what is wrong.

A key comes from the environment and goes into the header of the calls alone. Light: nothing here loads PyTorch, so a
server that is not there is an error before anything is loaded.
"""

import os
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Any

import httpx2

from rlhf.errors import UserError

KEY_REFUSED = {401, 403}
MAY_ANSWER_LATER = {408, 409, 425, 429, 500, 502, 503, 504}
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
CONNECTS_IN_S = 10.0
SHOWN = 200  # characters of what a server said
MARKUP = re.compile(r"<(style|script)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)


class NoAnswerError(Exception):
    """A call that may be answered later: nothing was there, it took too long, or the server is busy or broken."""

    def __init__(self, reason: str, *, status: int | None = None, retry_after: str = ""):
        super().__init__(reason)
        self.status = status  # None: nothing came back
        self.retry_after = retry_after  # as the server's header says it


class RefusedError(Exception):
    """A call that the server will not take, however often it is made."""

    def __init__(self, reason: str, *, status: int):
        super().__init__(reason)
        self.status = status


class Connection:
    """A server at an address.

    Args:
        setting: what names the server in a config, for messages.
        timeout_s: seconds until a call counts as failed.
        key_from: environment variable that holds the server's key.
        hint: what to look at when it cannot be reached.
    """

    def __init__(self, url: str, *, setting: str, timeout_s: float, key_from: str | None = None, hint: str = ""):
        self.url = url
        self.setting = setting
        self.key_from = key_from
        self.hint = hint
        self.secret = os.environ.get(key_from, "") if key_from else ""
        headers = {"Authorization": f"Bearer {self.secret}"} if self.secret else {}
        # The pool has no limit of its own: whoever makes calls in parallel says how many.
        limits = httpx2.Limits(max_connections=None)
        timeout = httpx2.Timeout(timeout_s, connect=min(timeout_s, CONNECTS_IN_S))
        self.client = httpx2.Client(headers=headers, timeout=timeout, limits=limits)

    def get(self, path: str) -> httpx2.Response:
        """Raises: NoAnswerError, RefusedError."""
        return self._call("GET", path, None)

    def post(self, path: str, body: Any = None) -> httpx2.Response:
        """Raises: NoAnswerError, RefusedError."""
        return self._call("POST", path, body)

    def _call(self, method: str, path: str, body: Any) -> httpx2.Response:
        try:
            response = self.client.request(method, f"{self.url}/{path}", json=body)
        except httpx2.TransportError as error:
            raise NoAnswerError(self.without_secret(f"{type(error).__name__}: {error}")) from error
        if response.is_success:
            return response
        status = response.status_code
        reason = f"status {status}: {shortened(self.without_secret(response.text))}"
        if status in MAY_ANSWER_LATER:
            raise NoAnswerError(reason, status=status, retry_after=response.headers.get("Retry-After", ""))
        raise RefusedError(reason, status=status)

    def error(self, what: str) -> UserError:
        """What is wrong with the server, for the user."""
        return UserError(f"{self.setting}: {self.url} {self.without_secret(what)}", hint=self.hint or None)

    def without_secret(self, text: str) -> str:
        """Servers quote the key that they refuse."""
        return text.replace(self.secret, "...") if self.secret else text


def call_again[T](
    call: Callable[[], T],
    *,
    enough: Callable[[int], bool],
    on_failure: Callable[[NoAnswerError], None],
    longest_wait_s: float = LONGEST_WAIT_S,
    wait: Callable[[float], None] = time.sleep,
) -> T:
    """What `call` returns; after each NoAnswerError it is called again.

    Args:
        enough: whether so many failures are enough, so that the last of them is raised.
        on_failure: told of each failure that is not the last.
        wait: sleeps for so many seconds.
    """
    for failures in count(1):
        try:
            return call()
        except NoAnswerError as error:
            if enough(failures):
                raise
            on_failure(error)
            wait(min(longest_wait_s, waiting_time(failures - 1, error.retry_after)))
    raise AssertionError("count() does not end")


def in_parallel[A, T](call: Callable[[A], T], items: Sequence[A], *, at_once: int) -> list[T]:
    """What `call` returns for each item, in their order; the first error ends the calls that have not begun."""
    with ThreadPoolExecutor(max(1, min(at_once, len(items)))) as pool:
        waiting = [pool.submit(call, item) for item in items]
        try:
            return [it.result() for it in waiting]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def shortened(body: str) -> str:
    """What a server said, for a message: its first line of text, of JSON all lines as one; at most SHOWN characters.

    >>> shortened("<!DOCTYPE HTML>\\n<html>\\n <style>p {color: red}</style>\\n <title>Not found</title>\\n <p>404</p>")
    'Not found'
    """
    if body.lstrip().startswith(("{", "[")):
        return " ".join(body.split())[:SHOWN]
    text = MARKUP.sub("", body) if body.lstrip().startswith("<") else body
    return next((line.strip()[:SHOWN] for line in text.splitlines() if line.strip()), "")


def waiting_time(attempt: int, retry_after: str = "") -> float:
    """Seconds until the next try: what the server asks for, or twice as long each time; at most LONGEST_WAIT_S.

    >>> [waiting_time(n) for n in (0, 1, 2, 9)], waiting_time(0, "7")
    ([0.5, 1.0, 2.0, 30.0], 7.0)
    """
    wait = FIRST_WAIT_S * 2 ** min(attempt, 30)
    if retry_after.strip().isdigit():
        wait = float(retry_after)
    elif retry_after:
        with suppress(ValueError):
            wait = parsedate_to_datetime(retry_after).timestamp() - time.time()
    return min(max(0.0, wait), LONGEST_WAIT_S)
