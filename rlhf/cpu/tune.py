"""All that is chosen for a process that computes on a CPU."""

from rlhf.cpu.idle_threads import spin_while_alone
from rlhf.cpu.kernels import choose_fp32_kernels
from rlhf.cpu.memory import keep_freed_memory


def tune_cpu() -> None:
    """Choose matrix kernels, allocator and what idle threads do; may be called again. Results stay those of fp32."""
    choose_fp32_kernels()
    keep_freed_memory()
    spin_while_alone()
