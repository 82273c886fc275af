"""Output that cannot be written does not end a command."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from rlhf.errors import UserError, run_main
from rlhf.output import lossy


def stream_to(descriptor: int, encoding: str = "utf-8") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(io.FileIO(descriptor, "wb", closefd=False)), encoding=encoding)


def test_what_a_terminal_cannot_show_is_spelled_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An arrow on an ASCII terminal, by print and by rich; half an emoji anywhere."""
    with (tmp_path / "out").open("wb") as file:
        monkeypatch.setattr(sys, "stdout", stream_to(file.fileno(), "ascii"))

        def main() -> None:
            print("a → b \ud83d")
            Console().print("c ⏎ d")

        assert run_main(main, debug=False) == 0
    assert (tmp_path / "out").read_text() == "a \\u2192 b \\ud83d\nc \\u23ce d\n"


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_pipe_that_nobody_reads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    before = stream_to(writer)
    monkeypatch.setattr(sys, name, before)
    told = []

    def main() -> int:
        for _ in range(3):
            print("x" * 100_000, file=getattr(sys, name), flush=True)
            Console(stderr=name == "stderr").print("y")
        told.append("the end")
        return 5

    assert run_main(main, debug=False) == 5
    assert told == ["the end"]
    assert getattr(sys, name) is before
    print("after it", file=before, flush=True)  # as at the end of the interpreter
    os.close(writer)


def test_an_error_message_that_nobody_reads_keeps_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "stderr", stream_to(writer))

    def main() -> None:
        raise UserError("wrong")

    assert run_main(main, debug=True) == 2
    os.close(writer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_under_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run_main(lambda: print("x", flush=True), debug=False) == 0


def test_streams_without_a_file_stay() -> None:
    """What tests and notebooks put in place of a terminal; and none at all, where the file was closed."""
    text = io.StringIO()
    assert lossy(text) is text


def test_a_whole_process_survives_head(tmp_path: Path) -> None:
    """Exit code 0, and no complaint of the interpreter when it shuts down, though buffered lines are left."""
    script = (
        "import sys; from rlhf.errors import run_main\nsys.exit(run_main(lambda: print('line\\n' * 50_000), debug=0))"
    )
    run = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout is not None
    assert run.stderr is not None
    assert run.stdout.readline() == b"line\n"
    run.stdout.close()
    assert run.wait(timeout=300) == 0
    assert run.stderr.read() == b""
    run.stderr.close()
    closed = subprocess.run([sys.executable, "-c", script], preexec_fn=lambda: os.close(1), check=False)
    assert closed.returncode == 0


def test_a_stream_that_another_closes_still_takes_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "out").open("wb") as file:
        monkeypatch.setattr(sys, "stdout", stream_to(file.fileno()))

        def main() -> None:
            print("before")
            sys.stdout.close()
            print("after")

        assert run_main(main, debug=False) == 0
    assert (tmp_path / "out").read_text() == "before\nafter\n"
