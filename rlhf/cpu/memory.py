"""What happens on a CPU to memory that a tensor has freed."""

import ctypes
import platform

MMAP_MAX, TRIM_THRESHOLD = -4, -1  # what mallopt calls M_MMAP_MAX and M_TRIM_THRESHOLD


def keep_freed_memory() -> bool:
    """Have the C library keep what large tensors free for the next ones, instead of giving it back to the system.

    glibc takes every block over 32 MB from the system and returns it when it is freed, so each micro-batch has its
    memory cleared by the kernel again, page by page: a sixth of a training step. The peak is about the same; a process
    then holds it between two steps too.

    Returns:
        Whether there was a glibc that took it.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, -1))
