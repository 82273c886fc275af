"""What reports are made of: run directories as they are read."""

import math
import os
from pathlib import Path
from typing import Any

import pytest
from run_directories import write_run

from rlhf.errors import UserError
from rlhf.report.runs import Point, Run, Target, is_number, read_run
from rlhf.statistics import Estimate, t_interval


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1, True),
        (-0.5, True),
        (True, False),
        (None, False),
        ("1", False),
        (math.nan, False),
        (math.inf, False),
        (10**400, False),
    ],
)
def test_what_is_a_number(value: object, number: bool) -> None:
    assert is_number(value) is number


def test_an_empty_run_knows_nothing() -> None:
    run = Run(Path("runs/x"))
    assert (run.config, run.provenance, run.metrics, run.samples, run.evaluation) == ({}, {}, [], [], {})
    assert (run.advice, run.notes) == ([], [])
    assert (run.title, run.seed, run.last_step, run.seconds, run.tokens) == ("x", None, None, None, None)
    assert (run.metric_names(), run.unmeasured()) == ([], [])
    assert [len(part) for part in run.series("loss")] == [0, 0]
    assert Target("words", "accuracy").name == "accuracy on words"
    assert Target("", "accuracy").name == "accuracy"


def test_a_title_is_given_or_the_algorithm_or_the_folder() -> None:
    given = Run(Path("x"), {"algorithm": "grpo", "seed": 3}, {"title": "T", "seed": 4})
    assert (given.title, given.seed) == ("T", 3)
    assert Run(Path("x"), {"algorithm": "grpo"}, {"seed": 4}).title == "grpo"
    assert Run(Path("x"), {"algorithm": "grpo"}, {"seed": 4}).seed == 4


def test_a_commit_is_shown_short_and_says_what_was_changed() -> None:
    def commit(**provenance: Any) -> str:
        return Run(Path("x"), provenance=provenance).commit

    assert commit(git_commit="0123456789abcdef") == "0123456789ab"
    assert commit(git_commit="0123456789abcdef", git_dirty=False) == "0123456789ab"
    assert commit(git_commit="0123456789abcdef", git_dirty=True) == "0123456789ab with uncommitted changes"
    assert commit() == commit(git_commit=None, git_dirty=True) == ""


def test_numbers_of_a_run_by_hand() -> None:
    """Seconds 0 to 2, 2 to 3, 3 to 7; the clock that went back costs nothing. Tokens 2*10 + 4*5."""
    metrics: list[dict[str, Any]] = [
        {"step": 1, "wall_s": 2.0, "speed/tokens_per_s": 10.0, "a": 1.0},
        {"step": 2, "wall_s": 3.0, "b": 2},
        {"step": 3, "speed/tokens_per_s": 1e6, "a": math.nan, "c": None},
        {"step": 4, "wall_s": 7.0, "speed/tokens_per_s": 5.0, "a": 4.0},
        {"step": 5, "wall_s": 6.0, "speed/tokens_per_s": 9.0},
    ]
    evaluation = {Target("w", "m"): [Point(0, t_interval([1.0])), Point(9, t_interval([1.0]))]}
    run = Run(Path("x"), metrics=metrics, evaluation=evaluation)
    assert run.tokens == 40
    assert run.seconds == 7
    assert run.last_step == 9
    assert Run(Path("x"), metrics=metrics).last_step == 5
    assert [part.tolist() for part in run.series("a")] == [[1, 4], [1, 4]]
    assert all(part.dtype == float for part in run.series("b"))
    assert run.metric_names() == ["speed/tokens_per_s", "a", "b"]
    assert run.unmeasured() == ["c"]


def test_everything_that_is_there_is_read(tmp_path: Path) -> None:
    """Rows in the order of their steps, the later of two for one step; advice as it stands; settings flat."""
    folder = write_run(
        tmp_path / "run",
        config={"lr": 1, "data": {"path": "p", "sizes": {"a": 1}, "none": {}}},
        provenance={"title": "T"},
        metrics=[{"step": 2, "a": 1}, {"step": 1.0, "a": 0}, {"step": 2, "b": 5}, {"step": 2, "a": 3}, {"a": 9}],
        eval=[
            {"step": 4, "data": "w", "metric": "m", "value": 0.5, "low": 0.4, "high": 0.6, "n": 10},
            {"step": 0, "data": "w", "metric": "m", "value": 0.1, "low": 0.0, "n": "x"},
            {"step": 4, "data": "w", "metric": "m", "value": 0.7, "low": 0.6, "high": 0.8, "n": 11},
            {"step": 0, "value": 1},
            {"step": 0, "data": "w", "metric": "m", "value": "x"},
        ],
        samples=[{"step": 3, "prompt": "late"}, {"step": 0, "prompt": "early"}, {"prompt": "never"}],
        advice=[{"text": "b", "step": 2}, {"text": "a"}],
    )
    run = read_run(folder)
    assert run.path == folder
    assert run.config == {"lr": 1, "data.path": "p", "data.sizes.a": 1, "data.none": {}}
    assert run.provenance == {"title": "T"}
    assert run.metrics == [{"step": 1, "a": 0}, {"step": 2, "a": 3, "b": 5}]
    assert all(isinstance(row["step"], int) for row in run.metrics)
    assert [row["prompt"] for row in run.samples] == ["early", "late"]
    assert run.advice == [{"text": "b", "step": 2}, {"text": "a"}]
    assert run.notes == []
    assert run.evaluation == {
        Target("w", "m"): [Point(0, Estimate(0.1, None, None, None)), Point(4, Estimate(0.7, 0.6, 0.8, 11))],
        Target("", "value"): [Point(0, Estimate(1, None, None, None))],
    }


def test_letters_that_are_none_do_not_hide_the_other_rows(tmp_path: Path) -> None:
    """In rows they become a sign for it; a config or provenance of such bytes is not read."""
    rows = b'{"step": 1, "prompt": "\xff"}\n\n{"step": 2, "prompt": "b"}\n'
    folder = write_run(tmp_path / "run", samples=rows, config=b"lr: \xff\n", provenance=b'{"title": "\xff"}')
    run = read_run(folder)
    assert [row["prompt"] for row in run.samples] == ["\ufffd", "b"]
    assert (run.config, run.provenance) == ({}, {})
    assert run.notes == [
        "config.yaml could not be read.",
        "provenance.json could not be read.",
        "metrics.jsonl is missing.",
        "eval.jsonl is missing.",
    ]


def test_lines_that_are_none_are_counted(tmp_path: Path) -> None:
    """A last line alone was cut off; others are counted, with the number of the first. Empty lines are no lines."""
    good = b'{"step": 1}\n'
    for text, notes in (
        (good + b"\n" + good, []),
        (good + b'{"step": 2', ["The last line of metrics.jsonl is cut off and was left out."]),
        (good + b"[1]\n" + good, ["metrics.jsonl: 1 lines could not be read and were left out, the first is line 2."]),
        (b"x\n" + good + b"3\n", ["metrics.jsonl: 2 lines could not be read and were left out, the first is line 1."]),
        (b"[" * 100_000, ["The last line of metrics.jsonl is cut off and was left out."]),
    ):
        others: dict[str, Any] = {"config": {"a": 1}, "provenance": {"a": 1}, "samples": [], "eval": []}
        run = read_run(write_run(tmp_path / "run", metrics=text, **others))
        assert run.notes == notes
        assert len(run.metrics) == (1 if good in text else 0)


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    """A pipe would never end."""
    folder = write_run(tmp_path / "run", config=b"[1]", provenance=b"3", eval=[], samples=[])
    os.mkfifo(folder / "metrics.jsonl")
    os.mkfifo(folder / "advice.jsonl")
    run = read_run(folder)
    assert (run.metrics, run.advice) == ([], [])
    assert run.notes == [
        "config.yaml does not hold keys and values.",
        "provenance.json does not hold keys and values.",
        "metrics.jsonl could not be read.",
        "advice.jsonl could not be read.",
    ]


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such run directory"):
        read_run(tmp_path / "nowhere")
    write_run(tmp_path / "runs" / "b", metrics=[])
    file = tmp_path / "runs" / "b" / "metrics.jsonl"
    with pytest.raises(UserError, match=r"metrics\.jsonl is a file, not a run directory") as error:
        read_run(file)
    assert error.value.hint == f"try its folder: {file.parent}"
    for name in "gfedca":
        write_run(tmp_path / "runs" / name, config={"a": 1})
    (tmp_path / "runs" / "0").mkdir()
    with pytest.raises(
        UserError, match=r"none of config\.yaml, provenance\.json, metrics\.jsonl, eval\.jsonl"
    ) as error:
        read_run(tmp_path / "runs")
    assert error.value.hint == "it contains runs: a, b, c, d, e"
    with pytest.raises(UserError) as error:
        read_run(tmp_path / "runs" / "0")
    assert error.value.hint == "name the directory that a trainer wrote"


@pytest.mark.parametrize("name", ["config.yaml", "provenance.json", "metrics.jsonl", "eval.jsonl", "samples.jsonl"])
def test_one_file_makes_a_run(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert read_run(tmp_path).metrics == []
