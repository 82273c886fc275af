"""What operating systems differ in. What only POSIX has is used here and in the process that verifies answers."""

import os
import platform
import signal
import sys
from pathlib import Path

import psutil

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# Which signals ask a process to end. SIGHUP: its terminal is gone.
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
CAN_FORK = hasattr(os, "fork")
# Opens a file of its own: not what a link leads to, nor a pipe that waits for its other end.
OWN_FILE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def lock(descriptor: int) -> None:
    """Wait until no other process holds this open file, and hold it until it is closed. On Windows nothing is held: a
    second writer is seen by what is written in the file, but not if both begin within the same moment."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def peak_memory_bytes() -> int:
    """The largest resident memory that this process has had so far."""
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def processor() -> str:
    """What the processor is called, and how many of its cores this process may use: "AMD EPYC, 2 cores"."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count()
    return f"{next(iter(names), '') or platform.processor() or platform.machine()}, {cores} cores"
