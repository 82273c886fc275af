"""SIGINT, SIGTERM and SIGHUP (the terminal is gone) ask for an end: at once where nothing would be lost by it,
otherwise after the step in hand."""

import os
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from accelerate import Accelerator

from rlhf.distributed import all_reduce_sum
from rlhf.system import ENDING

TOGETHER_S = 1.0  # a launcher hands on what the terminal has sent to all: two signals so close are one


class Stopped(SystemExit):
    """Raised by the signal's handler itself, so that sampling or evaluation ends in the middle. Its code is that of the
    process."""


class Interrupted:
    """Listens from its making on. True once a signal came; a second one ends the process there and then.

    `at_once` says what the first one does: raise `Stopped` (so from the start: nothing is done yet that could be saved)
    or wait until the loop asks. In another thread than the main one no signal is heard.

    Args:
        ends_process: whether a second signal ends the process; False: it raises KeyboardInterrupt.
    """

    def __init__(self, *, ends_process: bool = True):
        self.signal: int | None = None
        self.ends_process = ends_process
        self.at_once, self._at = True, 0.0
        # nohup: the run is to go on without its terminal.
        heard = [it for it in ENDING if it.name != "SIGHUP" or signal.getsignal(it) != signal.SIG_IGN]
        if threading.current_thread() is not threading.main_thread():
            heard = []
        self._before = {number: signal.signal(number, self._receive) for number in heard}

    def stop_listening(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def handled(self, *, at_once: bool) -> Generator[None]:
        """For a block: end it in the middle, or see it through and look afterwards whether a signal came."""
        before, self.at_once = self.at_once, at_once
        try:
            if at_once and self.signal is not None:
                raise Stopped(self.exit_code)
            yield
        finally:
            self.at_once = before
        if before and not at_once and self.signal is not None:
            raise Stopped(self.exit_code)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            if time.monotonic() - self._at > TOGETHER_S:
                if not self.ends_process:
                    raise KeyboardInterrupt
                os._exit(128 + number)
            return
        self.signal, self._at = number, time.monotonic()
        if self.at_once:
            raise Stopped(self.exit_code)

    def __bool__(self) -> bool:
        return self.signal is not None

    def heard_by_any(self, accelerator: Accelerator) -> bool:
        """The same in all processes, which must ask together: those that went on would wait for those that save."""
        (heard,) = all_reduce_sum([float(bool(self))], accelerator)
        if heard and self.signal is None:
            self.signal, self._at = signal.SIGTERM, time.monotonic()
        return heard > 0

    def stop_if_heard(self, accelerator: Accelerator) -> None:
        """Raises: Stopped, in all processes, which must ask together, if a signal came to one of them."""
        if self.heard_by_any(accelerator):
            raise Stopped(self.exit_code)

    @property
    def exit_code(self) -> int:
        return 128 + (self.signal or 0)
