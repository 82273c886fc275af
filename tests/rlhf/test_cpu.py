"""What is chosen for a CPU: as exact as before, and memory that is not asked for again and again."""

import platform
import subprocess
import sys

import pytest
import torch

from rlhf import cpu

TENSORS = """
import resource, torch
from rlhf.cpu import tune_cpu

def use():
    torch.ones(24 * 2**20).add_(1)  # 96 MB

def page_faults():
    for _ in range(10):  # an aligned block needs more than its own hole: the first few take new memory
        use()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        use()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(page_faults())
tune_cpu()
print(page_faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_used_again_without_asking_the_system():
    """In a process of its own, as the choice holds for a whole process."""
    run = subprocess.run([sys.executable, "-c", TENSORS], capture_output=True, text=True, check=True)
    before, after = map(int, run.stdout.split())
    assert before > 1000  # otherwise there is nothing to mend
    assert after < 100


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not cpu.keep_freed_memory()


def test_products_stay_exact_to_fp32():
    cpu.choose_fp32_kernels()
    a, b = torch.randn(2, 300, 300, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close((a @ b).double(), a.double() @ b.double(), atol=1e-4, rtol=0)
