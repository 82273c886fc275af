"""A small HTTP server in this process that answers in JSON."""

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class JsonServer(ThreadingHTTPServer):
    """Answers each call by a status with JSON, or with text; tests say in a subclass what it answers."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.keys: list[str | None] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def get(self, path: str) -> tuple[int, Any]:
        raise NotImplementedError

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        raise NotImplementedError


class Handler(BaseHTTPRequestHandler):
    server: JsonServer

    def do_GET(self) -> None:
        self.reply(*self.server.get(self.path))

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.keys.append(self.headers["Authorization"])
        self.reply(*self.server.post(self.path, json.loads(content) if content else None))

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
def running[ServerT: JsonServer](server: ServerT) -> Generator[ServerT]:
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
