"""What PyTorch's idle threads do between two operations: spin while the machine is ours, sleep while it is not.

Threads that spin are ready for the next operation at once; threads that sleep have to be woken. A decode step is
hundreds of operations, and on an idle machine much of it can be waking. Beside a busy program spinning is far worse,
since one thread then spins for another that has no core (figures: docs/LOG.md). Therefore a watch looks twice a second
at what other programs use. Which of the two it is changes no result.

GNU's OpenMP, which PyTorch has on Linux, has no call for this. But its threads spin (as often as GOMP_SPINCOUNT says,
which `rlhf/__init__.py` sets) only while it has no more threads than there are cores; beyond, they sleep at once. To
have them sleep, the watch keeps teams of threads that do nothing.
"""

import atexit
import math
import os
import sys
import time
from functools import cache
from pathlib import Path
from threading import Event, Thread

import psutil
import torch

INTERVAL = 0.5  # seconds between two looks
QUIET = 0.25  # cores by which other programs may exceed what we leave to them


@cache  # one watch a process
def spin_while_alone() -> None:
    """Start the watch, on Linux. Elsewhere PyTorch has another OpenMP, whose idle threads sleep."""
    if sys.platform == "linux":
        watch = IdleThreads()
        watch.start()
        atexit.register(watch.end)


class IdleThreads(Thread):
    """The watch, a thread of this process. Threads sleep until its first look has found the machine idle."""

    def __init__(self) -> None:
        super().__init__(name="idle threads", daemon=True)
        self.affine = len(os.sched_getaffinity(0))  # what OpenMP takes for the number of cores
        self.cores = min(self.affine, quota())
        self.end_of_teams: Event | None = None  # None: there are none, and threads spin
        self.end_of_watch = Event()

    def run(self) -> None:
        self.sleep()
        usage = Usage()
        while not self.end_of_watch.wait(INTERVAL):
            self.heed(usage.cores_of_others())

    def end(self) -> None:
        """Before Python ends, which must not stop a thread in the middle of an operation of PyTorch."""
        self.end_of_watch.set()
        self.join()

    def heed(self, others: float) -> None:
        """Choose by the cores that other programs use. Below zero, the system counts not even what we used."""
        alone = -QUIET <= others <= self.cores - torch.get_num_threads() + QUIET
        if alone:
            self.spin()
        else:
            self.sleep()

    def sleep(self) -> None:
        threads = torch.get_num_threads()
        if self.end_of_teams is None and threads > 1:  # a thread alone waits for nobody
            self.end_of_teams = Event()
            # With the team that computes, more threads than cores.
            for _ in range((self.affine - threads) // (threads - 1) + 1):
                Thread(target=_keep_a_team, args=(self.end_of_teams,), daemon=True).start()

    def spin(self) -> None:
        if self.end_of_teams:
            self.end_of_teams.set()
            self.end_of_teams = None


def _keep_a_team(end: Event) -> None:
    """OpenMP gives every thread that computes in parallel a team of its own, which ends with that thread."""
    torch.ones(2**16).exp_()  # large enough to be shared out
    end.wait()


class Usage:
    """Measures how many cores other programs have used since it was last asked."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.before = self._now()

    def cores_of_others(self) -> float:
        now = self._now()
        seconds, others = (after - before for after, before in zip(now, self.before, strict=True))
        self.before = now
        return others / seconds

    def _now(self) -> tuple[float, float]:
        """The time, and the processor time of all other programs, in seconds."""
        machine, own = psutil.cpu_times(), self.process.cpu_times()
        busy = sum(machine) - machine.idle - machine.iowait - machine.guest - machine.guest_nice  # user has the guests
        return time.monotonic(), busy - own.user - own.system


def quota() -> float:
    """Cores that the control group of this process has a share of, as in a container; else infinity."""
    try:
        share, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return math.inf
    return math.inf if share == "max" else int(share) / int(period)
