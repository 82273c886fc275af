"""The guarded process that verifies answers: python -m rlhf.tasks.verifier_worker.

`rlhf.tasks.verifier_process` starts it.

Two processes. The *keeper* imports reasoning-gym or math-verify once, makes data sets, and never looks at an answer. It
forks a *judge*, which has given up its rights before it reads the first one:

- no text is run as code: `eval` in the verifiers' modules and sympy's parser are `rlhf.tasks.expressions`, which
  evaluate nothing, and Python's audit hook refuses to execute code that does not come from a file;
- the audit hook lets pass what reading and computing need, and nothing else: no files opened for writing, removed or
  renamed, no processes, sockets, signals or foreign functions;
- the system's limits: files of 0 bytes, 1 GiB of memory more than it has, no more processes (but for root), and a
  working directory that no longer exists.

A judge that takes longer than SECONDS is killed, and the next one forked from the keeper within milliseconds. The
keeper ends when its standard input does, which is when the process that started it ends, however that ends; the judge
ends with the keeper.
"""

import contextlib
import importlib
import json
import math
import os
import pickle
import select
import signal
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rlhf.tasks.expressions import plain_value, symbolic

TIME_OUT = "time out"
SECONDS = 1.5  # that an answer may take
MEMORY = 2**30  # bytes that a judge may take beyond what it starts with
OPEN_FILES = 64
LONGEST_REPLY = 4096  # bytes
ERROR_LENGTH = 200  # characters
GUARDED = ("reasoning_gym", "math_verify", "latex2sympy2_extended")  # packages of verifiers
# What a verifier does that only reads and computes; imports of modules that sympy loads late are among it.
HARMLESS = {
    *("import", "compile", "marshal.loads", "os.listdir", "os.scandir", "pickle.find_class", "object.__getattr__"),
    *("sys._getframe", "sys._getframemodulename", "builtins.id", "array.__new__", "code.__new__", "function.__new__"),
}


def main() -> None:
    requests, replies = _take_pipes()
    for module in sys.argv[1:]:
        importlib.import_module(module)
    _read_without_evaluating()
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)
    datasets: dict[str, Any] = {}
    judge: Judge | None = None
    while (request := read_frame(requests)) is not None:
        if request[:1] == b"o":
            key, module, name, parameters, entry, answer = pickle.loads(request[1:])
            if judge is not None:
                judge.kill()
                judge = None
            try:
                datasets[key] = _open(module, name, parameters)
                _read_without_evaluating()
                with contextlib.suppress(Exception):  # once here, so that what it imports late is there after a fork
                    datasets[key].score_answer(answer, entry)
                reply = json.dumps({"open": True}).encode()
            except Exception as error:
                reply = _failure(error)
        else:
            judge = judge or Judge(datasets, close=(requests, replies))
            reply, alive = judge.ask(request[1:], SECONDS)
            if not alive:
                judge.kill()
                judge = None
        write_frame(replies, reply)
    if judge is not None:
        judge.kill()


def _open(module: str, name: str, parameters: dict[str, Any]) -> Any:
    """What has `score_answer`: a data set of reasoning-gym; or, without a name, the module itself."""
    if not name:
        return importlib.import_module(module)
    import rlhf.tasks.step_arithmetic  # noqa: F401 - registers its task
    from rlhf.tasks.reasoning_gym import create_dataset  # before the module, which would import what is not installed

    if module != "__main__":
        importlib.import_module(module)  # a data set registers itself there
    _read_without_evaluating()
    return create_dataset(name, **parameters)


def read_frame(file: int, *, seconds: float | None = None, longest: int = 2**31) -> bytes | None:
    """What `write_frame` wrote. None if the other side has ended, or says nothing for `seconds`, or too much."""
    deadline = None if seconds is None else time.monotonic() + seconds
    head = _read(file, 4, deadline)
    if head is None:
        return None
    (size,) = struct.unpack("<I", head)
    return _read(file, size, deadline) if size <= longest else None


def write_frame(file: int, content: bytes) -> None:
    view = memoryview(struct.pack("<I", len(content)) + content)
    while view:
        view = view[os.write(file, view) :]


def _read(file: int, size: int, deadline: float | None) -> bytes | None:
    parts = []
    while size:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([file], [], [], left)[0]:
                return None
        part = os.read(file, min(size, 2**20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _take_pipes() -> tuple[int, int]:
    """Keep stdin and stdout for the protocol, out of reach of what prints."""
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)
    return requests, replies


def _read_without_evaluating() -> None:
    """Where a verifier calls `eval` or sympy's parser, let it call what reads the same texts and evaluates nothing.

    Modules that are imported later take sympy's parser from where it is replaced here.
    """
    import sympy
    import sympy.parsing
    import sympy.parsing.sympy_parser as parser

    evaluating = {id(sympy.parse_expr), id(parser.parse_expr)} - {id(symbolic)}
    for module in [m for name, m in sys.modules.items() if name.partition(".")[0] in GUARDED]:
        vars(module)["eval"] = plain_value
        for name, value in list(vars(module).items()):
            if id(value) in evaluating:
                setattr(module, name, symbolic)
    sympy.parse_expr = sympy.parsing.parse_expr = parser.parse_expr = symbolic  # ty: ignore[invalid-assignment]


def _failure(error: BaseException) -> bytes:
    text = f"{type(error).__name__}: {error}".splitlines()[0] if str(error) else type(error).__name__
    return json.dumps({"failed": text[:ERROR_LENGTH]}).encode()


# -------------------------------------------------------------------------------------------------------------- judge


class Judge:
    """A forked process without rights that scores answers with the keeper's data sets."""

    def __init__(self, datasets: dict[str, Any], *, close: tuple[int, ...]):
        own, other = os.pipe(), os.pipe()  # requests to it, replies from it
        keeper = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                for file in (*close, own[1], other[0]):
                    os.close(file)
                _serve(datasets, own[0], other[1], keeper)
                status = 0
            finally:
                os._exit(status)
        os.close(own[0])
        os.close(other[1])
        self._to, self._from = own[1], other[0]

    def ask(self, request: bytes, seconds: float) -> tuple[bytes, bool]:
        """Its reply, and whether it can be asked again."""
        began = time.monotonic()
        try:
            write_frame(self._to, request)
            reply = read_frame(self._from, seconds=seconds, longest=LONGEST_REPLY)
        except OSError:
            reply = None
        if reply is not None:
            return reply, True
        # Silent, or ended by itself: memory, a crash.
        late = time.monotonic() - began >= seconds
        return json.dumps({"failed": TIME_OUT if late else "the verifier's process died"}).encode(), False

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        for file in (self._to, self._from):
            os.close(file)


def _serve(datasets: dict[str, Any], requests: int, replies: int, keeper: int) -> None:
    _die_with(keeper)
    _limit()
    sys.addaudithook(_audit)
    while (request := read_frame(requests)) is not None:
        try:
            key, entry, answer = pickle.loads(request)
            reply = json.dumps({"score": as_score(datasets[key].score_answer(answer, entry))}).encode()
        except BaseException as error:  # RecursionError, MemoryError, SystemExit: a verdict all the same
            reply = _failure(error)
        write_frame(replies, reply)


def as_score(value: Any) -> float:
    """A verifier's result as a number.

    Raises:
        ValueError: it is nan, infinite, or no number.
    """
    score = float(value)
    if not math.isfinite(score):
        raise ValueError(f"the verifier gave {score}")
    return score


def _die_with(keeper: int) -> None:
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    if os.getppid() != keeper:
        os._exit(1)


def _limit() -> None:
    import resource

    limits = {"RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0, "RLIMIT_NOFILE": OPEN_FILES, "RLIMIT_NPROC": 0}
    with contextlib.suppress(OSError, ValueError):  # no /proc: no limit of memory
        pages = Path("/proc/self/statm").read_text().split()[0]
        limits["RLIMIT_AS"] = int(pages) * resource.getpagesize() + MEMORY
    for name, most in limits.items():
        with contextlib.suppress(AttributeError, OSError, ValueError):  # systems differ in which they have
            resource.setrlimit(getattr(resource, name), (most, most))


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event in HARMLESS:
        return
    if event == "open" and _only_reads(*arguments[1:3]):
        return
    if event == "exec" and not _from_text(arguments[0]):
        return
    raise PermissionError(f"{event}: a verifier may not")


def _only_reads(mode: object, flags: object) -> bool:
    if isinstance(mode, str) and set(mode) & set("wax+"):
        return False
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    return not (isinstance(flags, int) and flags & writing)


def _from_text(code: Any) -> bool:
    name = getattr(code, "co_filename", "<")
    return name.startswith("<") and not name.startswith("<frozen ")


if __name__ == "__main__":
    main()
