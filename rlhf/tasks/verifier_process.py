"""Scores of verifiers that must not run here: what they read was written by a model, and some evaluate it.

The process itself is `rlhf.tasks.verifier_worker`. There is one for each process that verifies, whatever the number of
tasks; it starts with the first task that needs it.
"""

import atexit
import contextlib
import importlib.util
import json
import math
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from typing import Any

from rlhf.errors import UserError
from rlhf.system import CAN_FORK
from rlhf.tasks.verifier_worker import SECONDS, read_frame, write_frame

START_SECONDS = 180  # importing reasoning-gym on a busy machine
PATIENCE = 20  # seconds more than an answer may take, after which the whole process is started anew


class VerifierProcess:
    """Opens tasks in the guarded process, and asks it for scores. Started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._opened: set[str] = set()
        self._modules: dict[str, None] = {}  # imported when it starts

    def start(self, module: str) -> None:
        """Begin to start it, without waiting: it is needed soon, for what the module has."""
        with self._lock:
            self._modules.setdefault(module)
            self._start()

    def score(self, task: "VerifiedTask", entry: Mapping[str, Any], answer: str) -> tuple[float, str]:
        """The verifier's score, and "" or why there is none; the score is 0 then."""
        request = b"s" + pickle.dumps((task.key, dict(entry), answer))
        with self._lock:
            for _ in range(2):  # once more where the process itself is gone
                self._open(task)
                reply = self._ask(request, SECONDS + PATIENCE)
                if reply is not None:
                    return _read_reply(reply)
                self._stop()
        return 0.0, "the verifier's process died"

    def close(self) -> None:
        with self._lock:
            self._stop()

    def _open(self, task: "VerifiedTask") -> None:
        self._start()
        if task.key in self._opened:
            return
        example = (dict(task.entry), task.answer)
        request = b"o" + pickle.dumps((task.key, task.module, task.name, dict(task.parameters), *example))
        reply = self._ask(request, START_SECONDS)
        failed = "it does not start" if reply is None else json.loads(reply).get("failed", "")
        if failed:
            self._stop()
            raise UserError(f"task: the process that verifies '{task.name or task.module}' cannot open it: {failed}")
        self._opened.add(task.key)

    def _start(self) -> None:
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return
        if not CAN_FORK:
            raise UserError(
                "task: its answers are verified in a process without rights, which this system does not have",
                hint="On Windows use WSL 2, or a task that docs/tasks.md has as 'own' or 'text'.",
            )
        # Nothing of ours but where modules are found: no tokens or keys, one thread, no files written by the import.
        environment = {
            "PYTHONPATH": os.pathsep.join(path for path in [_root(), *sys.path] if path),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUTF8": "1",
            **{f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "VECLIB_MAXIMUM")},
            **{name: os.environ[name] for name in ("SYSTEMROOT", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ},
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rlhf.tasks.verifier_worker", *self._modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=tempfile.gettempdir(),
            env=environment,
            start_new_session=True,  # Ctrl-C is for the run; this process ends with it
        )
        self._owner, self._opened = os.getpid(), set()

    def _ask(self, request: bytes, seconds: float) -> bytes | None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            write_frame(process.stdin.fileno(), request)
            return read_frame(process.stdout.fileno(), seconds=seconds)
        except OSError:
            return None

    def _stop(self) -> None:
        process, self._process = self._process, None
        self._opened = set()
        if process is None or self._owner != os.getpid():
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class VerifiedTask:
    """What the guarded process needs to know of a task: `create_dataset(name, **parameters)`, or, without a name, the
    module that has `score_answer`; and an example."""

    def __init__(self, name: str, parameters: Mapping[str, Any], *, module: str, entry: Mapping[str, Any], answer: str):
        self.name, self.parameters, self.module = name, parameters, module
        self.entry, self.answer = entry, answer
        self.key = json.dumps([module, name, dict(parameters)], sort_keys=True, default=repr)


def _read_reply(reply: bytes) -> tuple[float, str]:
    """Numbers and text alone are believed of that process, and never unpickled."""
    try:
        told = json.loads(reply)
        score, failed = told.get("score", 0.0), told.get("failed", "")
    except (ValueError, AttributeError, RecursionError):
        return 0.0, "no verdict"
    if failed or not isinstance(score, float) or not math.isfinite(score):
        return 0.0, str(failed or "no number")
    return float(score), ""


def _root() -> str:
    spec = importlib.util.find_spec("rlhf")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return os.path.dirname(next(iter(spec.submodule_search_locations)))


verifier_process = VerifierProcess()
atexit.register(verifier_process.close)
