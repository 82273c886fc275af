"""A small OpenAI-compatible server in this process, which plays all that servers do."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from json_server import JsonServer, running


def says(text: str | None, *, tokens: tuple[int, int] = (10, 2)) -> tuple[int, Any]:
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}


class Server(JsonServer):
    """Answers each question by `answer(body)`: a status with JSON, or with text."""

    answer: Callable[[dict[str, Any]], tuple[int, Any]]
    models: tuple[int, Any] = (200, {"data": [{"id": "qwen3"}]})

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"{self.address}/v1"

    def get(self, path: str) -> tuple[int, Any]:
        return self.models

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        assert path == "/v1/chat/completions"
        self.asked.append(body)
        return self.answer(body)


@contextmanager
def serving() -> Generator[Server]:
    with running(Server()) as server:
        yield server
