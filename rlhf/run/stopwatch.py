"""Seconds and gigabytes of a step."""

import time
from collections.abc import Generator
from contextlib import contextmanager

import torch

from rlhf.system import peak_memory_bytes


class Stopwatch:
    """Seconds spent in each named part of a step."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Generator[None]:
        start = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start


def peak_memory_gb(device: torch.device) -> float:
    """Peak of the CUDA allocator, or of this process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return peak_memory_bytes() / 1e9
