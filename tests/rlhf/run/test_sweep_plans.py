"""Runs of one question: planned, refused where they contradict each other, and made one after the other."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import yaml
from pydantic import Field

from rlhf.config.command import Command, read_command
from rlhf.config.schema import Config
from rlhf.errors import UserError
from rlhf.run.compare import NOT_SHARED, Varied, compare, options, plan_runs, refuse_unequal
from rlhf.run.inputs import inputs
from rlhf.run.sweep import UNASKED, Planned, make_all, refuse_stale


class Toy(Config):
    algorithm: str = "a"
    lr: float = 1.0
    max_steps: int = 1
    data: dict[str, Any] = Field(default_factory=dict)


type Read = Callable[..., tuple[list[str], Command[Toy]]]


def read_toy(*shared: str) -> Read:
    def read(name: str, seed: int, more: Sequence[str] = ()) -> tuple[list[str], Command[Toy]]:
        arguments = ["--algorithm", name, "--seed", str(seed), *shared, *more]
        return arguments, read_command(Toy, arguments, prog="python -m toy.train", description="")

    return read


def plan(folder: Path, read: Read, **change: Any) -> list[Planned]:
    asked: dict[str, Any] = {"seeds": 2, "folder": folder, "key": "algorithm", "budget": ("max_steps",), "read": read}
    return plan_runs(["b", "a"], **(asked | change))


def test_every_name_has_every_seed_and_all_names_come_before_the_next_seed(tmp_path: Path) -> None:
    planned = plan(tmp_path, read_toy("--lr", "0.5"))
    assert [run.label for run in planned] == ["b, seed 0", "a, seed 0", "b, seed 1", "a, seed 1"]
    assert [run.path for run in planned] == [tmp_path / f"{name}-seed{seed}" for seed in (0, 1) for name in "ba"]
    assert {run.module for run in planned} == {"toy.train"}
    assert planned[2].arguments == ["--algorithm", "b", "--seed", "1", "--lr", "0.5"]
    assert planned[2].command == [
        *("-m", "toy.train", "--algorithm", "b", "--seed", "1", "--lr", "0.5"),
        *("--output_dir", str(tmp_path / "b-seed1"), "--quiet"),
    ]
    config = read_toy("--lr", "0.5")("b", 1)[1].config
    assert (config.algorithm, config.seed, config.lr) == ("b", 1, 0.5)
    assert planned[2].config == config.model_dump(mode="json")


def test_a_run_that_was_begun_is_resumed_and_one_that_is_done_is_left(tmp_path: Path) -> None:
    run = Planned("a", tmp_path, "toy.train", ["--seed", "0"])
    assert run.command == ["-m", "toy.train", "--seed", "0", "--output_dir", str(tmp_path), "--quiet"]
    assert not run.done
    (tmp_path / "config.yaml").touch()
    assert run.command == ["-m", "toy.train", "--seed", "0", "--output_dir", str(tmp_path), "--quiet", "--resume"]
    (tmp_path / "final").touch()
    assert not run.done, "a file is no model"
    (tmp_path / "final").unlink()
    (tmp_path / "final").mkdir()
    assert run.done


def test_names_and_seeds_are_the_comparisons_own(tmp_path: Path) -> None:
    """What is given to all runs must not fix them, and the message says what fixes it."""
    for arguments, message in (
        (["--algorithm", "c"], r"^algorithm is c \(command line\), but the comparison asks for b$"),
        (["--seed", "7"], r"^seed is 7 \(command line\), but the comparison asks for 0$"),
    ):
        with pytest.raises(UserError, match=message) as refused:
            plan(tmp_path, read_toy(*arguments))
        key = arguments[0].removeprefix("--")
        assert refused.value.hint == f"Leave {key} to the comparison: what is given to all runs must not fix it."


@pytest.mark.parametrize("option", ["overwrite", "plan", "show_config"])
def test_switches_of_one_run_are_not_for_a_comparison(tmp_path: Path, option: str) -> None:
    assert option in NOT_SHARED
    with pytest.raises(UserError, match=f"^--{option} is for one run, not for a comparison$"):
        plan(tmp_path, read_toy(f"--{option}"))


@pytest.mark.parametrize("option", ["resume", "fork"])
def test_runs_of_a_comparison_neither_resume_nor_fork_by_command(tmp_path: Path, option: str) -> None:
    changes: dict[str, Any] = {"resume": {"resume": True}, "fork": {"source": tmp_path}}[option]

    def read(name: str, seed: int, _: Sequence[str]) -> tuple[list[str], Command[Toy]]:
        arguments, command = read_toy()(name, seed)
        return arguments, Command(**(vars(command) | changes))

    with pytest.raises(UserError, match=f"^--{option} is for one run"):
        plan(tmp_path, read)


def test_directories_are_the_comparisons_own(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--output_dir: each run has a directory of its own"):
        plan(tmp_path, read_toy("--output_dir", str(tmp_path / "x")))


def test_budgets_of_all_names_are_equal(tmp_path: Path) -> None:
    def read(name: str, seed: int, _: Sequence[str]) -> tuple[list[str], Command[Toy]]:
        return read_toy("--max_steps", {"a": "2", "b": "3"}[name])(name, seed)

    with pytest.raises(UserError, match=r"^max_steps: a has 2, b has 3: no equal terms$") as refused:
        plan(tmp_path, read)
    assert refused.value.hint == "Set it for all: --max_steps VALUE."
    assert len(plan(tmp_path, read, budget=("lr", "seed"))) == 4, "other keys may differ"


def test_a_setting_may_vary_within_each_name(tmp_path: Path) -> None:
    """Each name has all its values, before the next seed; it may be one that else has to be equal."""
    planned = plan(tmp_path, read_toy(), varied=Varied("max_steps", ("2", "3")))
    assert [run.label for run in planned[:5]] == [
        *("b, max_steps 2, seed 0", "b, max_steps 3, seed 0", "a, max_steps 2, seed 0", "a, max_steps 3, seed 0"),
        "b, max_steps 2, seed 1",
    ]
    assert planned[1].arguments == ["--algorithm", "b", "--seed", "0", "--max_steps", "3"]
    assert planned[1].path == tmp_path / "b-max_steps-3-seed0"
    assert [run.config["max_steps"] for run in planned[:4]] == [2, 3, 2, 3]
    assert Varied("data.path", ("a/b c",)).directory("sft", "a/b c") == "sft-data.path-a_b_c"
    with pytest.raises(UserError, match="lr: b, max_steps 3 has"):
        plan(
            tmp_path,
            lambda name, seed, more: read_toy("--lr", more[1])(name, seed, more),
            varied=Varied("max_steps", ("2", "3")),
            budget=("lr", "max_steps"),
        )


@pytest.mark.parametrize("text", ["max_steps", "=1,2", "max_steps=1,1", "max_steps=1,", "max_steps="])
def test_what_varies_has_a_name_and_different_values(text: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["compare", "--vary", text])
    with pytest.raises(UserError, match="wanted KEY=X,Y"):
        options("python -m toy.compare", what="losses", folder="runs", example="--lr 1")


def test_a_table_of_ours_is_replaced_and_no_other_file(tmp_path: Path) -> None:
    table_file = tmp_path / "comparison.md"
    for ours in ("Held-out accuracy on words:\n", ""):
        table_file.write_text(ours)
        assert len(plan(tmp_path, read_toy())) == 4
    table_file.write_text("Held-in")
    with pytest.raises(UserError, match=r"comparison\.md' is there already, and no table of this project"):
        plan(tmp_path, read_toy())


def there(folder: Path, config: Mapping[str, Any]) -> Path:
    """A run with these settings."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(config)))
    return folder


def test_a_run_that_is_there_is_used_if_it_is_the_one_that_is_asked_for(tmp_path: Path) -> None:
    """How it was saved and shown is not asked about; neither are settings that only one of the two has."""
    settings = plan(tmp_path, read_toy())[0].config
    there(tmp_path / "b-seed0", settings)
    assert len(plan(tmp_path, read_toy())) == 4
    there(tmp_path / "b-seed0", {k: v for k, v in settings.items() if k != "lr"} | {"old": 1})
    assert len(plan(tmp_path, read_toy())) == 4
    there(tmp_path / "b-seed0", {**settings, "lr": 2.0, "max_steps": 3})
    with pytest.raises(UserError) as refused:
        plan(tmp_path, read_toy())
    said = f"'{tmp_path / 'b-seed0'}' is a run with other settings: "
    assert str(refused.value).startswith(said)
    assert {*str(refused.value).removeprefix(said).split("; ")} == {
        "lr is 2.0 there, 1.0 is asked for",
        "max_steps is 3 there, 1 is asked for",
    }
    assert str(refused.value.hint).startswith("--folder DIR compares elsewhere")


@pytest.mark.parametrize(
    "key",
    [
        *("output_dir", "save_every", "keep_checkpoints", "sample_every", "tensorboard"),
        *("wandb_project", "wandb_entity", "wandb_run_name", "wandb_mode"),
    ],
)
def test_how_a_run_was_saved_and_shown_is_not_asked_about(tmp_path: Path, key: str) -> None:
    assert key in UNASKED
    refuse_stale(Planned("a", there(tmp_path / "run", {key: "x", "lr": 1}), "toy.train", [], {key: "y", "lr": 1}))


def test_files_of_a_run_that_is_there_still_hold_what_they_held(tmp_path: Path) -> None:
    """Unless they say how it is saved and shown."""
    data, other = tmp_path / "rows.jsonl", tmp_path / "notes.txt"
    data.write_text("1")
    other.write_text("1")
    settings = {"data": {"path": str(data)}, "wandb_mode": str(other)}
    folder = there(tmp_path / "run", settings)
    run = Planned("a", folder, "toy.train", [], settings)
    refuse_stale(run)
    (folder / "provenance.json").write_text(json.dumps({"inputs": inputs(settings)}))
    refuse_stale(run)
    other.write_text("2")
    refuse_stale(run)
    data.write_text("2")
    with pytest.raises(UserError, match=f"is a run with other settings: '{data}' has changed since$"):
        refuse_stale(run)
    refuse_stale(Planned("a", tmp_path / "not there", "toy.train", [], settings))


def test_terms_of_one_name_alone_are_equal() -> None:
    refuse_unequal({"a": {"lr": 1}})


# --------------------------------------------------------------------------------------------------- making, writing


def test_options_of_a_comparison(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    """What it does not know is the trainer's."""
    words = {"what": "losses", "folder": "runs/here", "example": "--lr 1e-5"}
    monkeypatch.setattr(sys, "argv", ["compare"])
    given, rest = options("python -m toy.compare", **words)
    assert (given.losses, given.seeds, given.folder, given.debug, rest) == ("all", 3, Path("runs/here"), False, [])
    assert (given.vary, given.against, given.at_once) == (Varied(), None, 1)
    assert not hasattr(given, "equal"), "there is but one budget"
    monkeypatch.setattr(sys, "argv", ["compare", "--vary", "--lr=1, 2", "--against", "b", "--equal", "tokens"])
    given, _ = options("python -m toy.compare", **words, equal=("steps", "tokens"))
    assert (given.vary, given.against, given.equal) == (Varied("lr", ("1", "2")), "b", "tokens")
    arguments = ["--losses", "a,b", "--lr", "2", "--seeds", "5", "--folder", str(tmp_path), "--debug", "--plan"]
    monkeypatch.setattr(sys, "argv", ["compare", *arguments])
    given, rest = options("python -m toy.compare", **words)
    assert (given.losses, given.seeds, given.folder, given.debug) == ("a,b", 5, tmp_path, True)
    assert rest == ["--lr", "2", "--plan"]
    monkeypatch.setattr(sys, "argv", ["compare", "--help"])
    with pytest.raises(SystemExit):
        options("python -m toy.compare", **words)
    said = " ".join(capsys.readouterr().out.split())
    for text in (
        *("usage: python -m toy.compare", "--losses A,B", "--seeds N", "--folder", "seeds 0 to N - 1 (default: 3)"),
        *("names separated by commas (default: all)", "where runs and results are written", "show tracebacks"),
        *("Train with several losses and seeds", "goes to every run, e.g. --lr 1e-5."),
    ):
        assert text in said


TRAINER = """
import sys, pathlib
given = sys.argv[1:]
folder = pathlib.Path(given[given.index("--output_dir") + 1])
with open("made.txt", "a") as file:
    print(*given, file=file)
print("what the run said")
if "--fail" in given:
    sys.exit(3)
(folder / "final").mkdir(parents=True)
"""


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[str]]:
    """A trainer called `toy_trainer`; what it was asked to make, run by run."""
    (tmp_path / "toy_trainer.py").write_text(TRAINER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return lambda: (tmp_path / "made.txt").read_text().splitlines() if (tmp_path / "made.txt").exists() else []


def test_runs_that_are_not_there_are_made(trainer, tmp_path: Path, capfd) -> None:
    planned = [Planned(name, tmp_path / name, "toy_trainer", ["--algorithm", name]) for name in "abc"]
    (tmp_path / "b" / "final").mkdir(parents=True)
    make_all(planned)
    assert trainer() == [f"--algorithm {name} --output_dir {tmp_path / name} --quiet" for name in "ac"]
    assert capfd.readouterr().out.splitlines() == [
        f"[1/3] {tmp_path / 'a'}: a",
        f"[2/3] {tmp_path / 'b'}: there already",
        f"[3/3] {tmp_path / 'c'}: c",
    ]
    make_all(planned)
    assert len(trainer()) == 2
    assert capfd.readouterr().out.count("there already") == 3


def test_a_run_that_fails_ends_the_comparison_with_what_it_said(trainer, tmp_path: Path, capfd) -> None:
    planned = [Planned("a", tmp_path / "a", "toy_trainer", ["--fail"]), Planned("b", tmp_path / "b", "toy_trainer", [])]
    with pytest.raises(UserError, match=r"/a ended with exit code 3; its message is above$") as refused:
        make_all(planned)
    assert refused.value.hint == "The same command goes on from here."
    assert len(trainer()) == 1
    assert capfd.readouterr().out == f"[1/2] {tmp_path / 'a'}: a\nwhat the run said\n"


def test_several_runs_at_once_have_one_thread_each(tmp_path: Path, monkeypatch) -> None:
    """Two wait for each other, which they can only do at the same time; one that fails ends what has not begun."""
    together = Barrier(2, timeout=20)
    told = []

    def make(run: Planned, *, beside_others: bool) -> None:
        told.append(beside_others)
        if run.label in "ab":
            together.wait()
        if run.label == "c":
            raise UserError("c failed")

    monkeypatch.setattr("rlhf.run.sweep._make", make)
    make_all([Planned(name, tmp_path / name, "toy_trainer", []) for name in "ab"], at_once=2, quiet=True)
    assert told == [True, True]
    with pytest.raises(UserError, match="c failed"):
        make_all([Planned(name, tmp_path / name, "toy_trainer", []) for name in "cccc"], at_once=2, quiet=True)
    assert len(told) <= 4


@pytest.mark.parametrize("more", [None, "More text.", ""])
def test_a_comparison_from_its_command_line_to_its_table(trainer, tmp_path: Path, monkeypatch, capsys, more) -> None:
    """Runs are made, and page, picture and table are written; a family may add text and pictures of its own."""
    asked: list[tuple] = []

    def read(name: str, seed: int, shared: list[str]) -> tuple[list[str], Command[Toy]]:
        asked.append((name, seed, shared))
        arguments = ["--algorithm", name, "--seed", str(seed), *shared]
        return arguments, read_command(Toy, arguments, prog="python -m toy_trainer", description="")

    def add(paths: list[Path], folder: Path) -> tuple[str, list[Path]]:
        assert (paths, folder) == ([tmp_path / "out" / f"{name}-seed0" for name in "ab"], tmp_path / "out")
        return more, [folder / "more.png"]

    def write_all(planned: list[Planned], folder: Path, *, key: list[str], **_: Any) -> str:
        assert all(run.done for run in planned)
        (folder / "comparison.md").write_text(f"table by {key[0]}")
        return f"table by {key[0]}"

    monkeypatch.setattr("rlhf.run.compare.write_all", write_all)
    given = ["--algorithms", "a,b", "--seeds", "1", "--folder", str(tmp_path / "out"), "--lr", "2"]
    monkeypatch.setattr(sys, "argv", ["compare", *given])
    common = {
        "what": "algorithms",
        "key": "algorithm",
        "names": ["a", "b", "c"],
        "folder": "runs/x",
        "example": "--lr 1",
    }
    wanted = {"budget": ("max_steps",), "read": read, "add": None if more is None else add}
    assert compare("python -m toy.compare", **common, **wanted) == 0
    assert asked == [("a", 0, ["--lr", "2"]), ("b", 0, ["--lr", "2"])]
    assert len(trainer()) == 2
    text = "\n".join(part for part in ("table by algorithm", more) if part)
    assert (tmp_path / "out" / "comparison.md").read_text() == text
    said = capsys.readouterr().out
    assert text in said
    assert f"page:{' ' * (5 if more is not None else 4)}{tmp_path / 'out' / 'comparison.html'}" in said
    assert ("more.png" in said) == (more is not None)
    assert ("pictures:" in said) == (more is not None)
    assert str(tmp_path / "out" / "comparison.png") in said
