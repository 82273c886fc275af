"""What systems differ in: on one with neither fcntl, resource, SIGHUP nor fork, as Windows is."""

import importlib
import os
import signal
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil
import pytest

from rlhf import system
from rlhf.errors import UserError
from rlhf.tasks import verifier_process


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as it would be there."""
    with monkeypatch.context() as without:
        for module in ("fcntl", "resource"):
            without.setitem(sys.modules, module, None)
        for owner, name in ((signal, "SIGHUP"), (os, "fork"), (os, "O_NOFOLLOW"), (os, "O_NONBLOCK")):
            without.delattr(owner, name)
        spec = importlib.util.spec_from_file_location("system_of_windows", system.__file__)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def test_without_posix(windows: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert windows.ENDING == (signal.SIGINT, signal.SIGTERM)
    assert (windows.CAN_FORK, windows.OWN_FILE) == (False, 0)
    with (tmp_path / "lock").open("w") as file:
        windows.lock(file.fileno())
    monkeypatch.setitem(sys.modules, "resource", None)
    memory = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=7))
    monkeypatch.setattr(psutil, "Process", lambda: memory)
    assert windows.peak_memory_bytes() == 7


def test_the_peak_is_at_least_what_is_resident_now() -> None:
    assert system.peak_memory_bytes() >= 0.9 * psutil.Process().memory_info().rss


def test_a_task_that_needs_a_guarded_process_is_refused_where_none_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier_process, "CAN_FORK", False)
    with pytest.raises(UserError, match="verified in a process without rights"):
        verifier_process.VerifierProcess().start("rlhf.tasks.step_arithmetic")
