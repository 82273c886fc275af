"""The run directory where writing fails half-way: what stood there still does, and nothing is half-written.

A limit on the size of files is a disk that fills up: a write stores what fits, then fails.
"""

import errno
import resource
import shlex
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlhf.atomic import write_whole
from rlhf.config.schema import Config
from rlhf.run.tracking import Run, Trackers, command_line, for_shell, read_records, wanted_trackers


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


def test_a_line_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.append("eval", {"step": 1, "value": 0.5})
    with room_for(40), pytest.raises(OSError, match="large") as caught:
        run.append("eval", {"step": 2, "value": 0.5, "data": "x" * 30})
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(tmp_path / "eval.jsonl")
    assert (tmp_path / "eval.jsonl").read_text() == '{"step": 1, "value": 0.5}\n'
    run.append("eval", {"step": 2, "value": 0.5})
    assert [record["step"] for record in read_records(tmp_path / "eval.jsonl")] == [1, 2]


def test_what_is_replaced_stays_until_it_can_be(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    write_whole(file, "old: 1\n")
    with room_for(10), pytest.raises(OSError, match="large") as caught:
        write_whole(file, "new: " + "1" * 100)
    assert caught.value.filename == str(file)
    assert file.read_text() == "old: 1\n"
    assert listing(tmp_path) == ["config.yaml"]


def test_resuming_without_room_loses_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in range(9):
        run.log(step, {"loss": 1.0})
    before = (run.path / "metrics.jsonl").read_text()
    with room_for(20), pytest.raises(OSError, match="large"):
        run.forget_after(7)
    assert (run.path / "metrics.jsonl").read_text() == before
    run.forget_after(7)
    assert [record["step"] for record in run.records("metrics")] == list(range(8))


# --------------------------------------------------------------------------------------------------------------- W&B


@pytest.fixture
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def trackers() -> list[str]:
    return wanted_trackers(Config(max_steps=1, wandb_project="p"))


def test_a_key_is_found_where_wandb_looks(no_key: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert trackers() == []
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password 1\n")
    assert trackers() == ["wandb"]
    no_key.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080")
    assert trackers() == []
    no_key.setenv("NETRC", str(tmp_path / "other"))
    (tmp_path / "other").write_text("machine wandb.example.org login user password 1")
    assert trackers() == ["wandb"]


def test_keys_that_cannot_be_read_are_no_keys(no_key: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not UTF-8; a folder of that name; no permission; no home."""
    (tmp_path / ".netrc").write_bytes(b"machine \xff\xfe\n")
    assert trackers() == []
    no_key.setenv("NETRC", str(tmp_path))
    assert trackers() == []

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError

    with no_key.context() as patch:
        patch.setattr(Path, "read_text", refuse)
        assert trackers() == []
    no_key.delenv("NETRC")
    with no_key.context() as patch:
        patch.setenv("WANDB_BASE_URL", "http://[no address")
        assert trackers() == []

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    no_key.setattr(Path, "home", homeless)
    assert trackers() == []


@pytest.mark.parametrize("error", [UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), SystemExit(1), OSError("gone")])
@pytest.mark.parametrize("where", ["import", "init_trackers", "log", "end_training"])
def test_no_tracker_fails_a_run(error: BaseException, where: str, monkeypatch, tmp_path: Path, capsys) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    works = SimpleNamespace(log_with=["wandb"], init_trackers=lambda *_: None)
    works.log = works.end_training = lambda *_, **__: None
    setattr(works, where, fails)
    fake = SimpleNamespace(Settings=fails if where == "import" else dict)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = SimpleNamespace(wandb_run_name=None, wandb_entity=None, wandb_mode="online", wandb_project="p")
    config.model_dump = dict
    trackers = Trackers(works, config=config, run=Run(tmp_path))
    trackers.log(1, {"loss": 1.0})
    trackers.log(2, {"loss": 1.0})
    trackers.finish()
    assert capsys.readouterr().out.count("going on without them") == 1


def test_trackio_is_asked_for_by_name_and_missing_said_once(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def wanted() -> list[str]:
        return wanted_trackers(Config(max_steps=1, tensorboard=True, trackio=True))

    monkeypatch.setattr("rlhf.run.tracking.find_spec", lambda _: object())
    assert wanted() == ["tensorboard", "trackio"]
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("rlhf.run.tracking.find_spec", lambda _: None)
    assert wanted() == ["tensorboard"]
    assert capsys.readouterr().out.count("uv sync --extra trackio") == 1


def test_trackio_gets_the_project_and_the_name_of_the_run(tmp_path: Path) -> None:
    """Through Accelerate's own tracker, with a stand-in for the package."""
    started = []
    accelerator = SimpleNamespace(log_with=["trackio"], init_trackers=lambda *given: started.append(given))
    config = SimpleNamespace(wandb_project=None, model_dump=lambda: {"lr": 1.0, "data": {"path": "x"}})
    Trackers(accelerator, config=config, run=Run(tmp_path / "grpo-seed0"))
    assert started == [("rlhf-lab", {"lr": 1.0}, {"trackio": {"name": "grpo-seed0"}})]


def test_a_next_command_can_be_pasted_into_a_shell() -> None:
    for name in ("runs/one", "my runs/{x}", "it's $1"):
        command = for_shell("python -m report {run} OTHER", run=Path(name))
        assert shlex.split(command) == ["python", "-m", "report", name, "OTHER"]


def test_the_command_can_be_pasted_into_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "-m",
        "x.train",
        "--task_config",
        "{min_terms: 3}",
        "--output_dir",
        "my runs/1",
        "--system_prompt",
        "it's $1",
    ]
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3", *words])
    assert shlex.split(command_line()) == ["python", *words]


def test_records_that_are_none_of_a_run_are_left_out_and_said(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": "x"}\n{"step": null}\n{"step": 1, "wall_s": "long"}\n')
    (tmp_path / "eval.jsonl").write_text('{"step": 0}\n{"step": 0, "data": "a", "metric": "b"}\n')
    (tmp_path / "advice.jsonl").write_text('{"step": 0}\n{"step": 0, "text": "b"}\n')
    run = Run(tmp_path)
    said = run.forget_after(1, {"metrics": 1, "eval": 1, "samples": 0, "advice": 1})
    assert [line.split(": ")[1] for line in said] == [
        "left out line 1, which is no record, line 2, which is no record",
        *["left out line 1, which is no record"] * 2,
    ]
    assert run.lines() == {"metrics": 1, "samples": 0, "eval": 1, "advice": 1}


def test_records_that_are_gone_are_said(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    said = Run(tmp_path).forget_after(3, {"metrics": 3})
    assert said == [f"{tmp_path / 'metrics.jsonl'}: 2 of the 3 records that the checkpoint knows are gone"]
