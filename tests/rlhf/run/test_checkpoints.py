"""Checkpoints: whole or not there, and known to be what was written.

A limit on the size of files is a disk that fills up: a write stores what fits, then fails.
"""

import json
import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate import Accelerator
from torch import nn

from rlhf.errors import UserError
from rlhf.run import checkpoints
from rlhf.run.checkpoints import not_written


@contextmanager
def room_for(size: int) -> Generator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def found(run: Path) -> Path | None:
    checkpoint = checkpoints.newest(run)
    return checkpoint.path if checkpoint else None


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two checkpoints of a small model, the older first."""
    accelerator = Accelerator(cpu=True)
    accelerator.prepare(nn.Linear(100, 1))
    return tuple(checkpoints.save(accelerator, tmp_path, n, {"n": n}, keep=2) for n in (1, 2))


@pytest.mark.parametrize(("outputs", "room"), [(200, 60_000), (1, 1_500)])
def test_a_checkpoint_is_there_whole_or_not_at_all(tmp_path: Path, outputs: int, room: int) -> None:
    """No room for the weights (80 kB), or for them (0.4 kB) but not for the random states (14 kB)."""
    accelerator = Accelerator(cpu=True)
    accelerator.prepare(nn.Linear(100, outputs))
    first = checkpoints.save(accelerator, tmp_path, 1, {"baseline": 0.5}, keep=2)
    before = listing(tmp_path)
    with room_for(room), pytest.raises(UserError, match=r"step_2.*could not be written") as caught:
        checkpoints.save(accelerator, tmp_path, 2, {}, keep=2)
    assert "MB are free" in str(caught.value.hint)
    assert listing(tmp_path) == before
    assert found(tmp_path) == first
    assert json.loads((first / checkpoints.MANIFEST).read_text())["state"] == {"baseline": 0.5}
    assert found(tmp_path) != checkpoints.save(accelerator, tmp_path, 2, {}, keep=2)


def test_a_disk_that_fills_up_is_called_that(tmp_path: Path, monkeypatch) -> None:
    """torch says "[enforce fail at inline_container.cc:671] . unexpected pos": the free space tells more."""
    partial = tmp_path / "checkpoints" / ".partial_step_1"
    error = RuntimeError("[enforce fail] . unexpected pos\nmore")
    assert "enforce fail] . unexpected pos" in not_written("it", partial, error).message
    assert "more" not in not_written("it", partial, error).message
    assert not_written("it", partial, MemoryError()).message == "it could not be written: MemoryError"
    partial.mkdir(parents=True)
    free = iter([1000, 5_000_000])  # before and after the part is removed
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=next(free)))
    refused = not_written("it", partial, error)
    assert refused.message == "it could not be written: the disk is full"
    assert str(refused.hint).startswith("5 MB are free")
    assert not partial.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
def test_flipped_bytes_are_found(two: tuple[Path, Path], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The size is as it was. Of the manifest, a digit of the loop's state is another one."""
    older, newer = two
    content = bytearray((newer / name).read_bytes())
    place = content.index(b'"n": 2') + 5 if name == "manifest.json" else len(content) // 2
    content[place] ^= 1
    (newer / name).write_bytes(content)
    assert found(older.parent.parent) == older
    assert f"step_2 is damaged ({name} is not what was written)" in capsys.readouterr().out


@pytest.mark.parametrize("manifest", ['{"files": {}}', "[]", "", '{"files": [], "step": 2, "state": {}}', "null"])
def test_manifest_that_says_nothing_is_damage(two: tuple[Path, Path], manifest: str) -> None:
    older, newer = two
    (newer / checkpoints.MANIFEST).write_text(manifest)
    assert found(older.parent.parent) == older


def test_missing_file_is_damage_and_all_damaged_is_an_error(two: tuple[Path, Path]) -> None:
    for folder in two:
        (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"every checkpoint .* model.safetensors is missing"):
        checkpoints.newest(two[0].parent.parent)


def test_early_manifest_of_sizes_is_read(two: tuple[Path, Path]) -> None:
    files = {file.name: file.stat().st_size for file in two[1].iterdir() if file.name != checkpoints.MANIFEST}
    (two[1] / checkpoints.MANIFEST).write_text(json.dumps({"step": 2, "state": {}, "files": files}))
    assert found(two[0].parent.parent) == two[1]


def test_folders_of_other_names_are_left_alone(two: tuple[Path, Path]) -> None:
    run = two[0].parent.parent
    for name in ("step_3.copy", "step_x", "notes"):
        (run / "checkpoints" / name).mkdir()
    (run / "checkpoints" / "step_9").write_text("a file")
    assert found(run) == two[1]
    accelerator = Accelerator(cpu=True)
    checkpoints.save(accelerator, run, 3, {}, keep=1)
    names = sorted(it.name for it in (run / "checkpoints").iterdir())
    assert names == ["notes", "step_3", "step_3.copy", "step_9", "step_x"]


def test_carried_files_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    """A later version is taken back, and one that was not there yet goes."""
    accelerator = Accelerator(cpu=True)
    best = tmp_path / "best.safetensors"
    first = checkpoints.read(checkpoints.save(accelerator, tmp_path, 1, {}, keep=3, carry=[best]))
    best.write_text("step 1")
    second = checkpoints.read(checkpoints.save(accelerator, tmp_path, 2, {}, keep=3, carry=[best]))
    later = tmp_path / ".later"
    later.write_text("step 3")
    later.rename(best)
    checkpoints.restore_carried(second, tmp_path, [best.name])
    assert best.read_text() == "step 1"
    checkpoints.restore_carried(first, tmp_path, [best.name])
    assert not best.exists()
