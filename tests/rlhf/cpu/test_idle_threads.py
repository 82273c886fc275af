"""Idle threads spin while the machine is ours, and sleep while other programs use it."""

import os
import subprocess
import sys
import threading
import time
from collections import namedtuple

import psutil
import pytest
import torch

from rlhf.cpu import idle_threads
from rlhf.cpu.idle_threads import IdleThreads, Usage, quota
from rlhf.cpu.tune import tune_cpu

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="another OpenMP than GNU's")

PROCESSOR_TIME = """
import time, torch
from rlhf.cpu.idle_threads import IdleThreads

torch.set_num_threads(2)

def of_idle_threads():
    time.sleep(0.2)  # for the teams to begin or to end
    before = time.process_time() - time.thread_time()
    for _ in range(50):
        torch.ones(2**16).exp_()
        time.sleep(0.003)
    return time.process_time() - time.thread_time() - before

idle = IdleThreads()
for choose in (idle.sleep, idle.spin, idle.sleep, idle.spin):
    choose()
    print(of_idle_threads())
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core has one thread")
def test_idle_threads_use_the_processor_only_when_they_spin():
    """In a process of its own, as it needs two threads and a runtime that has just been loaded."""
    run = subprocess.run([sys.executable, "-c", PROCESSOR_TIME], capture_output=True, text=True, check=True)
    asleep, spinning, asleep_again, spinning_again = map(float, run.stdout.split())
    assert max(asleep, asleep_again) < min(spinning, spinning_again) / 3


class Chosen(IdleThreads):
    def __init__(self, cores: float):
        super().__init__()
        self.cores = cores
        self.choices: list[str] = []

    def sleep(self) -> None:
        self.choices.append("sleep")

    def spin(self) -> None:
        self.choices.append("spin")


@pytest.fixture
def _two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize(
    ("cores", "others", "choice"),
    [
        (2, 0.0, "spin"),
        (2, 0.2, "spin"),
        (2, 1.0, "sleep"),  # another run, say
        (4, 1.9, "spin"),  # there is room for both
        (4, 3.0, "sleep"),
        (1.5, 0.0, "sleep"),  # a container with less of the processor than we have threads
        (2, -2.0, "sleep"),  # counters that do not count even us
    ],
)
def test_what_others_use_decides(cores, others, choice):
    watch = Chosen(cores)
    watch.heed(others)
    assert watch.choices == [choice]


def test_a_thread_alone_waits_for_nobody(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    watch = IdleThreads()
    watch.sleep()
    assert watch.end_of_teams is None


def test_a_busy_program_is_seen():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            usage = Usage()
            time.sleep(0.6)
            assert usage.cores_of_others() > 0.3
        finally:
            busy.kill()


def test_own_work_is_not_that_of_others(monkeypatch):
    """Neither do idle and waiting cores count, nor guests a second time, which `user` has."""
    usage = Usage()
    usage.before = (10.0, 20.0)
    times = dict.fromkeys(("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest"), 0.0)
    times |= {"user": 32, "idle": 9, "iowait": 5, "guest": 2, "guest_nice": 0}
    machine = namedtuple("Machine", times)(**times)
    own = namedtuple("Own", ["user", "system"])(6, 1)
    monkeypatch.setattr(time, "monotonic", lambda: 12.0)
    monkeypatch.setattr(psutil, "cpu_times", lambda: machine)
    monkeypatch.setattr(usage.process, "cpu_times", lambda: own)
    assert usage.cores_of_others() == 2.5  # (32 - 7 - 20) / 2


def test_one_watch_a_process():
    tune_cpu()
    tune_cpu()
    assert [thread.name for thread in threading.enumerate()].count("idle threads") == 1


@pytest.mark.parametrize(("text", "cores"), [("200000 100000\n", 2), ("50000 100000\n", 0.5), ("max 100000\n", None)])
def test_quota_of_a_container(text, cores, monkeypatch, tmp_path):
    file = tmp_path / "cpu.max"
    file.write_text(text)
    monkeypatch.setattr(idle_threads, "Path", lambda _: file)
    assert quota() == (cores or float("inf"))
