from pathlib import Path

import pytest
from alignment_commands import Commands, pairs, write_rows
from steps_by_hand import Step, record_steps


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Commands:
    return Commands(monkeypatch, capfd)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Sixty pairs in a file."""
    return write_rows(tmp_path / "pairs.jsonl", pairs(60))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """The optimizer steps of the runs to come, without their reports."""
    monkeypatch.setattr("rlhf.run.session.write_report", lambda path: path)
    return record_steps(monkeypatch, "direct_alignment.update")
