"""A run from its beginning to its end, with a loop of nothing: what is written when, and what is left."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from rlhf.config.command import Command, read_command
from rlhf.config.trainer import TrainerConfig
from rlhf.errors import UserError
from rlhf.run.interrupts import Stopped
from rlhf.run.lock import NAME as LOCK
from rlhf.run.lock import take
from rlhf.run.session import Session, before_and_after, open_session
from rlhf.run.tracking import read_records


class Toy(TrainerConfig):
    """Toy"""

    max_steps: int = 3
    save_every: int = 1
    eval_every: int = 2
    shared_size = ("max_steps", "")  # nothing is shared out here


def command(run: Path, *words: str) -> Command[Toy]:
    arguments = ["--output_dir", str(run), "--device", "cpu", "--quiet", *words]
    return read_command(Toy, arguments, prog="python -m toy.train", description="", environ={})


def ignore(_: object) -> None:
    pass


def train(
    it: Command[Toy],
    *,
    before: Callable[[Session], None] = ignore,
    each: Callable[[int], None] = ignore,
    data: str = "d",
) -> dict[str, float]:
    """A weight that grows by 1 a step; evaluation is its value. Returns what it is at the end."""
    with open_session(it, {}, title="Toy", headline=["loss"]) as session:
        session.describe(data="toy", data_fingerprint=data)
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        model = session.accelerator.prepare(model)
        before(session)

        def evaluate(step: int) -> None:
            session.log_evaluation(step, [{"data": "toy", "metric": "weight", "value": float(model.weight), "n": 1}])
            each(-step)

        _, state = session.begin()
        for step in session.steps(evaluate):
            each(step)
            with torch.no_grad():
                model.weight += 1
            session.log(step + 1, {"loss": float(step)}, tokens=1)
            session.end_step(step + 1, state=lambda: {"seen": float(model.weight)})
        if session.stopping:
            return {"code": session.end(None, None).exit_code}  # of a run that was stopped there is no final model
        return {"weight": float(model.weight), **state}


def steps(run: Path, stream: str) -> list[int]:
    return [record["step"] for record in read_records(run / f"{stream}.jsonl")]


def files(folder: Path) -> dict[str, bytes]:
    return {str(it.relative_to(folder)): it.read_bytes() for it in folder.rglob("*") if it.is_file()}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    train(command(tmp_path / "whole"))
    return tmp_path / "whole"


class Boom(Exception):
    pass


def boom(_: object) -> None:
    raise Boom


def stop(_: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_writes_what_happened_and_gives_its_lock_back(whole: Path) -> None:
    assert steps(whole, "metrics") == [1, 2, 3]
    assert steps(whole, "eval") == [0, 2, 3]
    assert not (whole / LOCK).exists()
    told = json.loads((whole / "provenance.json").read_text())
    assert (told["made_by"], told["trainer"]) == ("rlhf-lab", "toy.train")
    assert "wandb_project" in told["unset"]
    assert "output_dir" not in told["unset"]


@pytest.mark.parametrize("failure", [boom, stop])
def test_before_it_begins_nothing_is_written(tmp_path: Path, failure) -> None:
    with pytest.raises((Boom, Stopped)):
        train(command(tmp_path / "runs" / "new"), before=failure)
    assert list(tmp_path.iterdir()) == [], "not even the folders above it"


@pytest.mark.parametrize("failure", [boom, stop])
def test_what_fails_before_its_first_step_leaves_nothing(tmp_path: Path, failure) -> None:
    """Evaluated or not: as a reward function that fails at the first completions."""
    with pytest.raises((Boom, Stopped)):
        train(command(tmp_path / "run"), each=lambda step: failure(step) if step == 0 else None)
    looks = []

    def second(step: int) -> None:
        looks.append(step)
        if len(looks) == 2:  # the evaluation before training is written by now
            failure(step)

    with pytest.raises((Boom, Stopped)):
        train(command(tmp_path / "run"), each=second)
    assert looks == [0, 0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [boom, stop])
def test_the_old_run_stays_until_the_new_one_can_begin(whole: Path, failure) -> None:
    before = files(whole)
    with pytest.raises((Boom, Stopped)):
        train(command(whole, "--overwrite", "--lr", "1e-3"), before=failure)
    assert files(whole) == before
    train(command(whole, "--overwrite", "--max_steps", "1"))
    assert steps(whole, "metrics") == [1]
    assert sorted(it.name for it in (whole / "checkpoints").iterdir()) == ["step_1"]


def test_only_runs_are_replaced(whole: Path, tmp_path: Path) -> None:
    (whole / "novel.odt").write_text("years")
    before = files(whole)
    with pytest.raises(UserError, match=r"novel\.odt"):
        train(command(whole, "--overwrite"))
    assert files(whole) == before


@pytest.mark.parametrize("words", [[], ["--overwrite"]])
def test_a_start_that_was_killed_is_no_run(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".partial_config.yaml").touch()
    train(command(tmp_path / "run", *words))
    assert steps(tmp_path / "run", "metrics") == [1, 2, 3]


def test_a_run_in_use_is_refused_to_all(whole: Path) -> None:
    held = take(whole)
    before = files(whole)
    for words in (["--resume"], ["--overwrite"]):
        with pytest.raises(UserError, match="is in use by process"):
            train(command(whole, *words))
    assert files(whole) == before
    held.release()
    train(command(whole, "--resume"))


@pytest.mark.parametrize("at", [1, 2, -2, -3])
def test_resumed_after_a_crash_the_logs_are_those_of_one_run(tmp_path: Path, whole: Path, at: int) -> None:
    """In a step, or (negative) in the evaluation after it, which is in the log already."""
    run = tmp_path / "run"
    with pytest.raises(Boom):
        train(command(run), each=lambda step: boom(step) if step == at else None)
    assert train(command(run, "--resume"))["weight"] == 3
    for stream in ("metrics", "eval"):
        assert steps(run, stream) == steps(whole, stream)


@pytest.mark.parametrize("at", [1, -2, -3])
def test_asked_to_stop_it_saves_and_evaluates_later(tmp_path: Path, whole: Path, at: int) -> None:
    run = tmp_path / "run"
    ended = train(command(run), each=lambda step: stop(step) if step == at else None)
    assert ended == {"code": 128 + signal.SIGTERM}
    assert train(command(run, "--resume"))["weight"] == 3
    for stream in ("metrics", "eval"):
        assert steps(run, stream) == steps(whole, stream)


def test_stopped_in_the_first_evaluation_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(command(tmp_path / "run"), each=lambda step: stop(step) if step == 0 else None)
    assert not (tmp_path / "run").exists()


def test_stopped_before_it_knows_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a launcher ends the other processes of one that has failed, while they are being set up."""

    def stopped(**_: object) -> None:
        raise Stopped(143)

    monkeypatch.setattr("rlhf.run.opening.make_accelerator", stopped)
    with pytest.raises(Stopped):
        train(command(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_finishing_again_changes_nothing(whole: Path) -> None:
    before = {name: content for name, content in files(whole).items() if name.endswith(".jsonl")}
    train(command(whole, "--resume"))
    assert {name: content for name, content in files(whole).items() if name.endswith(".jsonl")} == before


def test_other_data_are_refused_and_nothing_is_touched(whole: Path) -> None:
    before = files(whole)
    with pytest.raises(UserError, match="the data are not those of"):
        train(command(whole, "--resume", "--max_steps", "5"), data="other")
    assert files(whole) == before
    with pytest.raises(UserError, match="3 steps are done already"):
        train(command(whole, "--resume", "--max_steps", "2"))
    assert files(whole) == before


def test_a_finished_run_without_its_checkpoints_is_not_begun_anew(whole: Path) -> None:
    (whole / "final").mkdir(exist_ok=True)
    for name, words in (("gone", "its checkpoints are gone"), ("file", "is no folder")):
        (whole / "checkpoints").rename(whole.parent / name)
        if name == "file":
            (whole / "checkpoints").write_text("mine")
        before = files(whole)
        with pytest.raises(UserError, match=words):
            train(command(whole, "--resume", "--max_steps", "5"))
        assert files(whole) == before
        if name == "file":
            (whole / "checkpoints").unlink()
        (whole.parent / name).rename(whole / "checkpoints")


def test_a_fork_spares_the_run_that_it_starts_from(whole: Path) -> None:
    before = files(whole)
    (whole.parent / "link").symlink_to(whole)
    for new in (whole, whole.parent / "link", whole / "checkpoints" / "new", whole / ".."):
        with pytest.raises(UserError, match="in each other"):
            train(command(whole, "--fork", str(new), "--max_steps", "5", "--overwrite"))
    assert files(whole) == before


def test_what_a_run_starts_from_is_not_removed_for_it(whole: Path) -> None:
    before = files(whole)
    for name in (str(whole), f"{whole}/../whole", str(whole / "checkpoints")):
        with pytest.raises(UserError, match=r"would be removed|holds no model"):
            train(command(whole, "--overwrite", "--model_name", name))
    assert files(whole) == before


def test_a_longer_run_is_written_down(whole: Path) -> None:
    assert train(command(whole, "--resume", "--max_steps", "5"))["weight"] == 5
    assert "max_steps: 5" in (whole / "config.yaml").read_text()
    (resumed,) = json.loads((whole / "provenance.json").read_text())["resumed"]
    assert resumed["step"] == 3
    assert steps(whole, "eval") == [0, 2, 3, 4, 5]


def test_a_fork_is_another_run_from_there(whole: Path, tmp_path: Path) -> None:
    before, new = files(whole), tmp_path / "new"
    with pytest.raises(Boom):  # killed before its first step, it knows where it began
        train(command(whole, "--fork", str(new), "--lr", "0.5", "--max_steps", "5"), data="other", each=boom)
    assert train(command(new, "--resume"), data="other")["weight"] == 5
    assert files(whole) == before
    assert steps(new, "metrics") == [4, 5]
    assert steps(new, "eval") == [3, 4, 5]
    told = json.loads((new / "provenance.json").read_text())
    assert told["forked_from"] == {"run": str(whole), "step": 3}
    assert "lr: 0.5" in (new / "config.yaml").read_text()


def test_an_evaluation_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    def nan(session: Session) -> None:
        session.log_evaluation = lambda step, results: Session.log_evaluation(
            session, step, [{**results[0], "value": float("nan")}]
        )

    with pytest.raises(UserError, match="toy weight after step 0 is nan"):
        train(command(tmp_path / "run"), before=nan)
    assert not (tmp_path / "run").exists()


def test_lines_that_are_no_records_are_left_out_and_said(whole: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = (whole / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (whole / "metrics.jsonl").write_bytes(b"".join([content[0], b"\xff\xfe\n", b"5\n", *content[1:]]))
    train(command(whole, "--resume"))
    assert "left out line 2, which is no record, line 3" in capfd.readouterr().out
    assert steps(whole, "metrics") == [1, 2, 3]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([0.25, 0.5, 0.75], "0.250 -> 0.750 [0.650, 0.850], n = 10"),
        ([0.45], "0.450 [0.350, 0.550], n = 10"),
    ],
)
def test_before_and_after(values: list[float], says: str) -> None:
    """A metric that was looked at once has not gone from anywhere to anywhere."""
    records = [{"value": value, "low": value - 0.1, "high": value + 0.1, "n": 10} for value in values]
    assert before_and_after(records) == says
    assert before_and_after([{"value": 2.0, "n": 3}]) == "2.000, n = 3"


def test_the_sample_on_the_console_goes_round_and_says_how_many_are_right(tmp_path: Path, capfd) -> None:
    """Every second step, of three prompts that stay the same; all of them are written down each time."""
    samples = [{"prompt": f"p{i}", "completion": f"c{i}", "total": float(i)} for i in range(3)]
    words = ["--output_dir", str(tmp_path), "--device", "cpu", "--sample_every", "2"]
    it = read_command(Toy, words, prog="python -m toy.train", description="", environ={})

    def show(session: Session) -> None:
        for step in (1, 2, 4, 6):
            session.log_samples(step, samples, right=2)
        session.log_samples(7, samples)

    train(it, before=show)
    lines = [line for line in capfd.readouterr().out.splitlines() if "→" in line]
    assert lines == [
        "p0 → c0 (0.00; 2 of 3 right)",
        "p1 → c1 (1.00; 2 of 3 right)",
        "p2 → c2 (2.00; 2 of 3 right)",
        "p0 → c0 (0.00; 2 of 3 right)",
        "p0 → c0 (0.00)",
    ]


def test_tensorboard_is_said_where_it_is_on(tmp_path: Path, capfd) -> None:
    for words, said in ((["--tensorboard"], 1), ([], 0)):
        run = tmp_path / str(said)
        argv = ["--output_dir", str(run), "--device", "cpu", *words]
        train(read_command(Toy, argv, prog="python -m toy.train", description="", environ={}))
        out = capfd.readouterr().out.replace("\n", "")
        assert out.count(f"tensorboard --logdir {run}") == said
