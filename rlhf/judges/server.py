"""The OpenAI-compatible server of a judge: chats, tried again, and whether it serves the model.

Light: nothing here loads PyTorch.
"""

import time
from collections.abc import Callable
from typing import Any

from rlhf.errors import UserError, nearest
from rlhf.judges.config import JudgeConfig
from rlhf.judges.usage import Usage
from rlhf.servers.http import KEY_REFUSED, SHOWN, Connection, NoAnswerError, RefusedError, call_again

NOT_TAKEN = {400, 413, 422}  # this one question is not, such as one that is too long


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
        self.connection = Connection(
            config.url,
            setting="judge",
            timeout_s=config.timeout_s,
            key_from=config.key_from,
            hint="Is the server running, and is the address that of its API, such as http://localhost:8000/v1?",
        )

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """The reply to a chat: its `text`, and `tokens_in` and `tokens_out` as the server counts them.

        Raises:
            NotTakenError: the server does not take this question.
            UserError: it is gone, refuses all questions, or is no such server.
        """
        tries = self.config.retries + 1
        try:
            response = call_again(
                lambda: self.connection.post("chat/completions", body),
                enough=lambda failures: failures >= tries,
                on_failure=lambda _: self.usage.add(retries=1),
                wait=self.wait,
            )
        except NoAnswerError as error:
            raise self.connection.error(f"gave no answer in {tries} tries ({error})") from error
        except RefusedError as error:
            if error.status in NOT_TAKEN:
                raise NotTakenError(str(error)) from error
            raise self._refused(error) from error
        try:
            answer = response.json()
            text = answer["choices"][0]["message"].get("content") or ""
            usage = answer.get("usage") or {}
            tokens_in, tokens_out = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            what = f"answers something else than a chat completion: {response.text[:SHOWN]!r}"
            raise self.connection.error(what) from error
        return {"text": str(text), "tokens_in": tokens_in, "tokens_out": tokens_out}

    def refuse_unserved_model(self) -> None:
        """Ask the server for its models. One that has no such list is believed.

        Raises:
            UserError: nothing answers at the address, the key is refused, or the model is not served there.
        """
        try:
            served = [str(model["id"]) for model in self.connection.get("models").json()["data"]]
        except NoAnswerError as error:
            if error.status is None:
                raise self.connection.error(f"cannot be reached ({error})") from error
            return
        except RefusedError as error:
            if error.status in KEY_REFUSED:
                raise self._refused(error) from error
            return
        except (ValueError, LookupError, TypeError):
            return
        if served and self.config.model not in served:
            raise UserError(
                f"judge: model: {self.url} does not serve '{self.config.model}'", nearest(self.config.model, served)
            )

    def _refused(self, error: RefusedError) -> UserError:
        if error.status not in KEY_REFUSED:
            return self.connection.error(f"does not answer chat completions ({error})")
        name = self.config.key_from
        hint = f"It was sent the key in {name}." if name else "Name the variable that has it: key_from: OPENAI_API_KEY."
        return UserError(f"judge: {self.url} asks for another key ({error})", hint=hint)
