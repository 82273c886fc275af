"""`python -m module *arguments` in a process of its own; one of several begins without the seconds that imports take.

On Linux without a GPU such a process is a fork of a server that has imported PyTorch and the like, and done nothing
else: multiprocessing's forkserver. A GPU cannot be used in a fork if it was asked for before, which some libraries do
when they are imported; so with one, as on other systems, it is a new interpreter.
"""

import ctypes
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

from rlhf.config.profiles import may_have_gpu

IMPORTED_ONCE = ["rlhf.run.session", "torch", "transformers.modeling_utils", "accelerate", "peft"]
PR_SET_PDEATHSIG = 1
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def run_module(module: str, arguments: Sequence[str], *, beside_others: bool) -> tuple[int, str]:
    """The exit code of the process, and what it wrote to its standard output.

    Args:
        beside_others: other processes compute at the same time, so this one has one thread.
    """
    if beside_others and sys.platform == "linux" and not may_have_gpu():
        return _forked(module, arguments)
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, **(ONE_THREAD if beside_others else {})}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=False, env=environment, preexec_fn=_linux_ends_it()
    )
    return done.returncode, done.stdout


def _linux_ends_it() -> Callable[[], None] | None:
    """What a new process calls so that Linux asks it to end once this one is gone; None on other systems.

    A fork cannot use this: its parent is the server, which stays.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _forked(module: str, arguments: Sequence[str]) -> tuple[int, str]:
    context = get_context("forkserver")
    context.set_forkserver_preload(IMPORTED_ONCE)
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "stdout"
        environment = {**os.environ, **ONE_THREAD}
        process = context.Process(target=_as_main, args=(module, arguments, environment, said))
        process.start()
        process.join()
        return process.exitcode or 0, said.read_text(encoding="utf-8", errors="replace") if said.exists() else ""


def _as_main(module: str, arguments: Sequence[str], environment: Mapping[str, str], stdout: Path) -> None:
    """In the fork: what `python -m module *arguments > stdout` does."""
    os.environ.clear()
    os.environ.update(environment)
    with stdout.open("wb") as file:
        os.dup2(file.fileno(), 1)
    Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)  # the server counted the processors before it knew
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_with_parent() -> None:
    """Ask this process to end once the command that wanted it is gone: it would go on, and hold its run."""
    parent = parent_process()
    assert parent is not None, "it was started by another"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
