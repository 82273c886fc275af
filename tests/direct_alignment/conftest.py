from pathlib import Path

import pytest
from alignment_commands import Commands, pairs, write_rows


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
