"""What this machine can do at most: uv run python -m benchmarks.roofline

Large matrix products (the rate that compute-bound work such as scoring could reach) and reading a large tensor (the
rate that limits decoding, which reads every weight for each token step). Measured in the same call as a benchmark, as
both depend on what else the machine is doing.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

SIZE = 2048  # of the square matrices: 17 GFLOP a product, well out of cache in fp32
READ_BYTES = 2**29  # what is read at once: as much as the weights of a 135M model in fp32, well out of cache


@dataclass(frozen=True)
class Roofline:
    fp32: float  # GFLOP/s
    bf16: float  # GFLOP/s
    read: float  # GB/s
    threads: int


def measure(repeats: int = 7, clock: Callable[[], float] = time.perf_counter) -> Roofline:
    """Best of `repeats`: interference only ever slows down."""
    import torch

    from rlhf.cpu.kernels import choose_fp32_kernels

    choose_fp32_kernels()
    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = torch.randn(2, SIZE, SIZE).to(dtype)
        rates[name] = 2 * SIZE**3 / _best(lambda a=a, b=b: a @ b, repeats, clock) / 1e9
    numbers = torch.ones(READ_BYTES // 4)
    return Roofline(
        **rates, read=READ_BYTES / _best(numbers.sum, repeats, clock) / 1e9, threads=torch.get_num_threads()
    )


def _best(work: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    """Seconds of the fastest run, after one to warm up."""
    seconds = []
    for _ in range(repeats + 1):
        start = clock()
        work()
        seconds.append(clock() - start)
    return min(seconds[1:])


if __name__ == "__main__":
    json.dump(asdict(measure()), sys.stdout)
    print()
