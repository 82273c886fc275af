"""A run's process: as `python -m` starts it, whether it is forked or not."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhf.run import processes
from rlhf.run.processes import run_module

TOLD = """
import os, sys, torch
print(sys.argv, __name__, os.getcwd(), os.environ["TOLD"], torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS"))
os.write(1, b"below Python\\n")
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "toy_of_processes.py").write_text(TOLD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("TOLD", "yes")
    monkeypatch.chdir(tmp_path)
    return "toy_of_processes"


@pytest.mark.skipif(sys.platform != "linux", reason="forked on Linux")
@pytest.mark.parametrize("driver", [False, True])
def test_a_process_beside_others_does_what_python_m_does(toy: str, tmp_path: Path, monkeypatch, driver: bool) -> None:
    """Both ways say the same: arguments, folder, environment, one thread, output and exit code."""
    monkeypatch.setattr(processes, "may_have_gpu", lambda: driver)
    forked: list[str] = []
    fork = processes._forked
    monkeypatch.setattr(processes, "_forked", lambda *given: forked.append(given[0]) or fork(*given))
    code, said = run_module(toy, ["3", "b c"], beside_others=True)
    argv = [str(tmp_path / f"{toy}.py"), "3", "b c"]
    assert code == 3
    assert sorted(said.splitlines()) == sorted(
        [f"{argv} __main__ {os.path.realpath(tmp_path)} yes 1 1", "below Python"]
    )
    assert bool(forked) is not driver


def test_a_process_by_itself_has_the_threads_of_the_environment(toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    code, said = run_module(toy, ["0"], beside_others=False)
    assert code == 0
    assert "yes 2 2" in said


@pytest.mark.skipif(sys.platform != "linux", reason="forked on Linux")
def test_a_forked_process_that_fails_says_so(toy: str, tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.setattr(processes, "may_have_gpu", lambda: False)
    (tmp_path / "toy_of_failure.py").write_text("print('before'); raise ValueError('what went wrong')")
    code, said = run_module("toy_of_failure", [], beside_others=True)
    assert (code, said) == (1, "before\n")


@pytest.mark.skipif(sys.platform != "linux", reason="forked on Linux")
def test_each_fork_has_the_folder_and_the_environment_of_its_moment(toy: str, tmp_path: Path, monkeypatch) -> None:
    """And not those in which the server was started."""
    monkeypatch.setattr(processes, "may_have_gpu", lambda: False)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        monkeypatch.setenv("TOLD", name)
        _, said = run_module(toy, ["0"], beside_others=True)
        assert f"{os.path.realpath(tmp_path / name)} {name} 1 1" in said


STARTS = """
import sys
if __name__ == "__main__":
    from rlhf.run import processes
    processes.IMPORTED_ONCE = []
    processes.may_have_gpu = lambda: False
    processes.run_module("toy_of_sleep", [], beside_others=sys.argv[1] == "fork")
"""
SLEEPS = """
import os, time
print(os.getpid(), file=open("sleeping.new", "w"), flush=True)
os.rename("sleeping.new", "sleeping")
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says that a parent is gone")
@pytest.mark.parametrize("kind", ["fork", "interpreter"])
def test_a_process_ends_with_the_command_that_started_it(kind: str, toy: str, tmp_path: Path) -> None:
    """However that ends, so that the same command can be started again: a run would still be held."""
    (tmp_path / "toy_of_sleep.py").write_text(SLEEPS)
    (tmp_path / "toy_of_start.py").write_text(STARTS)
    sleeping = tmp_path / "sleeping"
    source = f"{tmp_path}{os.pathsep}{Path(processes.__file__).parents[2]}"
    command = subprocess.Popen([sys.executable, "toy_of_start.py", kind], env=os.environ | {"PYTHONPATH": source})
    try:
        assert _soon(sleeping.exists, seconds=60)
    finally:
        command.kill()
        command.wait()
    pid = int(sleeping.read_text())
    try:
        assert _soon(lambda: not _runs(pid), seconds=20)
    finally:
        if _runs(pid):
            os.kill(pid, 9)


def _soon(condition, *, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not condition():
        time.sleep(0.05)
    return condition()


def _runs(pid: int) -> bool:
    """Whether there is such a process, other than one that has ended and was not waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
