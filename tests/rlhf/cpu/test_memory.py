"""Memory that is not asked for again and again."""

import platform
import subprocess
import sys

import pytest

from rlhf.cpu.memory import keep_freed_memory

TENSORS = """
import resource, torch
from rlhf.cpu.memory import keep_freed_memory

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
keep_freed_memory()
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
    assert not keep_freed_memory()
