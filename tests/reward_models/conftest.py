"""Sampled candidates are shared by this family's tests alone."""

import os

import pytest
from rm_commands import FEW, Commands


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Made once a session, in this process and in those that tests start."""
    os.environ["RLHF_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["RLHF_CACHE"]


@pytest.fixture
def commands(monkeypatch, capfd) -> Commands:
    monkeypatch.setattr("rlhf.statistics.RESAMPLES", FEW)
    return Commands(monkeypatch, capfd)
