"""A small OpenAI-compatible server in this process, which plays all that servers do."""

import json
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def says(text: str | None, *, tokens: tuple[int, int] = (10, 2)) -> tuple[int, Any]:
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}


class Server(ThreadingHTTPServer):
    """Answers each call by `answer(body)`: a status with JSON, or with text."""

    daemon_threads = True
    answer: Callable[[dict[str, Any]], tuple[int, Any]]
    models: tuple[int, Any] = (200, {"data": [{"id": "qwen3"}]})

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.reply(*self.server.models)

    def do_POST(self) -> None:
        assert self.path == "/v1/chat/completions"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.server.keys.append(self.headers["Authorization"])
        self.reply(*self.server.answer(body))

    def reply(self, status: int, content: Any) -> None:
        payload = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        with suppress(BrokenPipeError):  # of a caller that has given up
            self.wfile.write(payload)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving() -> Generator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
