"""What operating systems differ in. What only POSIX has is used here and in the process that verifies answers."""

import os
import signal
import sys

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
