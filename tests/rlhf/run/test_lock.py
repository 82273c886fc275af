"""One writer a run directory: who holds it is refused to others, and a dead owner's is taken over."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from rlhf.errors import UserError
from rlhf.run import lock


def owned_by(folder: Path, **who: object) -> None:
    me = psutil.Process()
    owner = {"pid": me.pid, "host": socket.gethostname(), "started": me.create_time(), "command": "train"}
    (folder / lock.NAME).write_text(json.dumps(owner | who))


def test_second_writer_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    first = lock.take(tmp_path)
    with pytest.raises(UserError, match=f"in use by process {os.getpid()} on {socket.gethostname()}"):
        lock.take(tmp_path)
    first.release()
    assert list(tmp_path.iterdir()) == []
    lock.take(tmp_path).release()


def test_lock_of_a_process_that_ended_is_taken_over(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    owned_by(tmp_path, pid=ended.pid)
    held = lock.take(tmp_path)
    assert held.took_over is not None
    assert held.took_over["pid"] == ended.pid
    held.release()


def test_lock_of_a_process_with_the_same_number_is_taken_over(tmp_path: Path) -> None:
    """This process lives, but it is not the one that wrote the lock: that one started an hour earlier."""
    owned_by(tmp_path, started=psutil.Process().create_time() - 3600)
    assert lock.take(tmp_path).took_over is not None


def test_lock_of_another_host_is_refused_with_the_way_out(tmp_path: Path) -> None:
    owned_by(tmp_path, host="elsewhere", pid=1)
    with pytest.raises(UserError, match="another host") as caught:
        lock.take(tmp_path)
    assert f"remove '{tmp_path / lock.NAME}'" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["", "{", '{"pid": 1}', "[]", '{"pid": "x", "host": 1, "started": 0}'])
def test_half_written_lock_is_nobodys(tmp_path: Path, text: str) -> None:
    (tmp_path / lock.NAME).write_text(text)
    held = lock.take(tmp_path)
    assert held.took_over is None
    held.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_another_took_is_not_released(tmp_path: Path) -> None:
    first = lock.take(tmp_path)
    owned_by(tmp_path, started=1.0)
    first.release()
    assert (tmp_path / lock.NAME).exists()


def test_a_link_a_folder_or_a_pipe_in_its_place_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for make in (
        lambda file: file.symlink_to(precious),
        lambda file: file.symlink_to(tmp_path / "gone"),
        lambda file: file.mkdir(),
        os.mkfifo,
    ):
        folder = tmp_path / "run"
        folder.mkdir()
        make(folder / lock.NAME)
        with pytest.raises(UserError, match="is not what a run writes"):
            lock.take(folder)
        folder.rename(tmp_path / f"done-{len(list(tmp_path.iterdir()))}")
    assert precious.read_text() == "mine"
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("content", [b"\xff\xfe", b'{"pid": -1, "host": "x", "started": 1.0}', b'{"pid": true}'])
def test_a_lock_that_names_nobody_is_nobodys(tmp_path: Path, content: bytes) -> None:
    (tmp_path / lock.NAME).write_bytes(content)
    assert lock.take(tmp_path).took_over is None
