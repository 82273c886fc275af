"""Runs of one question: planned, made one after the other, and laid side by side in a table, from files by hand."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field

from rlhf.config.command import Command, read_command
from rlhf.config.schema import Config
from rlhf.errors import UserError
from rlhf.run.inputs import inputs
from rlhf.run.sweep import (
    NOT_SHARED,
    UNASKED,
    Planned,
    choose,
    make_all,
    options,
    plan_runs,
    refuse_stale,
    refuse_unequal,
    table,
    write_all,
)
from rlhf.statistics import t_interval


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """A run with a held-out curve; two steps of 2 and 3 seconds, at 10 and 20 tokens a second: 80 tokens."""

    def make(name: str, curve: dict[int, float], *, seed: int = 0, metric: str = "accuracy", **config) -> Path:
        run = tmp_path / name
        run.mkdir()
        (run / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "output_dir": str(run)} | config))
        rows = [{"step": s, "data": "words", "metric": metric, "value": v, "n": 9} for s, v in curve.items()]
        (run / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        steps = [
            {"step": 1, "time/update_s": 1.5, "time/sampling_s": 0.5, "speed/tokens_per_s": 10.0, "loss": 7.0},
            {"step": 2, "time/update_s": 3.0, "speed/tokens_per_s": 20.0},
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))
        return run

    return make


def rows_of(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_a_row_by_hand(make_run) -> None:
    """Heights over steps 0 to 10: (0.2 + 0.6) / 2 = 0.4 and 0.5; after: 0.6 and 0.6 + 0.2."""
    paths = [
        make_run("g0", {0: 0.2, 10: 0.6}, seed=0, algorithm="grpo"),
        make_run("g1", {0: 0.2, 10: 0.8}, seed=1, algorithm="grpo"),
        make_run("r0", {0: 0.3, 10: 0.4}, seed=0, algorithm="rloo"),
    ]
    text = table(paths, key="algorithm", metric="accuracy")
    assert text.startswith("Held-out accuracy on words:\n\n| algorithm | before |")
    head, _, grpo, rloo = rows_of(text)
    assert head == ["algorithm", "before", "after", "seeds", "mean over training", "seconds", "tokens"]
    after, height = t_interval([0.6, 0.8]), t_interval([0.4, 0.5])
    assert after.high > 1
    assert grpo == [
        "grpo", "0.200", "0.700 [0.000, 1.000]", "0.600, 0.800",
        f"0.450 [{max(0, height.low):.3f}, {min(1, height.high):.3f}]", "5", "80",
    ]  # fmt: skip
    assert rloo == ["rloo", "0.300", "0.400 (one seed)", "0.400", "0.350 (one seed)", "5", "80"]


def test_a_directory_named_twice_is_one_seed(make_run) -> None:
    path = make_run("g0", {0: 0.2, 10: 0.4}, algorithm="grpo")
    *_, row = rows_of(table([path, path, path.parent / "." / path.name], key="algorithm", metric="accuracy"))
    assert row[2:4] == ["0.400 (one seed)", "0.400"]


def test_two_runs_of_one_seed_are_not_two_seeds(make_run) -> None:
    """They are shown apart, with the names of their directories; real seeds stay together."""
    paths = [make_run(name, {0: 0.2, 10: 0.4}, seed=seed, algorithm="grpo") for name, seed in (("a0", 0), ("a1", 1))]
    paths += [make_run("b0", {0: 0.2, 10: 0.4}, seed=0, algorithm="grpo")]
    _, _, first, second = rows_of(table(paths, key="algorithm", metric="accuracy"))
    assert first[3] == "0.400, 0.400"
    assert second[2:4] == ["0.400 (one seed)", "0.400"]
    assert {first[0], second[0]} == {"grpo a0", "grpo b0"}


def test_the_end_is_one_that_all_seeds_reached(make_run) -> None:
    """One seed was cut short at step 10: 0.5 at 10 beside 0.6 at 10, not beside 0.9 at 20. Heights up to 10 as well."""
    paths = [
        make_run("g0", {0: 0.2, 10: 0.6, 20: 0.9}, seed=0, algorithm="grpo"),
        make_run("g1", {0: 0.2, 10: 0.5}, seed=1, algorithm="grpo"),
        make_run("r0", {0: 0.4, 20: 0.8}, seed=0, algorithm="rloo"),
    ]
    _, _, grpo, rloo = rows_of(table(paths, key="algorithm", metric="accuracy"))
    assert grpo[3] == "0.600, 0.500"
    assert grpo[4].startswith("0.375 [")
    assert rloo[2] == "0.800 (one seed)"
    assert rloo[4] == "0.500 (one seed)"  # from 0.4 to 0.6 at step 10


def test_what_was_not_measured_is_a_dash(make_run) -> None:
    """A single evaluation has no height; a run without the metric, or without a common step, no value."""
    paths = [
        make_run("g0", {0: 0.2}, algorithm="grpo"),
        make_run("r0", {0: 0.4}, algorithm="rloo", metric="other"),
        make_run("m0", {5: 0.4}, seed=0, algorithm="maxrl"),
        make_run("m1", {0: 0.4}, seed=1, algorithm="maxrl"),
    ]
    _, _, grpo, rloo, maxrl = rows_of(table(paths, key="algorithm", metric="accuracy"))
    assert grpo[1:5] == ["0.200", "0.200 (one seed)", "0.200", "-"]
    assert rloo == ["rloo", *["-"] * 6]
    assert maxrl == ["maxrl", *["-"] * 6]
    assert table(paths, key="algorithm", metric="nothing") == ""


def test_each_data_set_has_its_table(make_run) -> None:
    run = make_run("g0", {0: 0.2, 10: 0.4}, algorithm="grpo")
    with (run / "eval.jsonl").open("a") as file:
        file.write('{"step": 0, "data": "sums", "metric": "accuracy", "value": 0.9, "n": 3}\n')
    text = table([run], key="algorithm", metric="accuracy")
    assert text.index("on words:") < text.index("on sums:")
    assert rows_of(text)[-1][1] == "0.900"


def test_terms_are_equal_or_refused() -> None:
    refuse_unequal({"a": {"lr": 1}, "b": {"lr": 1}, "c": {"lr": 1}})
    with pytest.raises(UserError, match="lr: c has 2, a has 1"):
        refuse_unequal({"a": {"lr": 1, "x": 1}, "b": {"lr": 1, "x": 1}, "c": {"lr": 2, "x": 1}})


def test_names_are_chosen() -> None:
    assert choose("--algorithms", "all", ["a", "b"], seeds=1) == ["a", "b"]
    assert choose("--algorithms", "b", ["a", "b"], seeds=2) == ["b"]
    assert choose("--algorithms", "b, a", ["a", "b"], seeds=1) == ["b", "a"], "in the order of the command line"
    with pytest.raises(UserError, match=r"^--algorithms: there is no 'gpro': did you mean 'grpo'"):
        choose("--algorithms", "rloo,gpro", ["grpo", "rloo"], seeds=1)
    with pytest.raises(UserError, match=r"^--losses: a, c is given twice") as refused:
        choose("--losses", "a,c,b,c,a", ["a", "b", "c"], seeds=1)
    assert refused.value.hint == "Repetitions are seeds: --seeds N."
    with pytest.raises(UserError, match="at least 1, not 0"):
        choose("--algorithms", "b", ["a", "b"], seeds=0)


# --------------------------------------------------------------------------------------------------------- planning


class Toy(Config):
    algorithm: str = "a"
    lr: float = 1.0
    max_steps: int = 1
    data: dict[str, Any] = Field(default_factory=dict)


def read_toy(*more: str) -> Callable[[str, int], tuple[list[str], Command[Toy]]]:
    def read(name: str, seed: int) -> tuple[list[str], Command[Toy]]:
        arguments = ["--algorithm", name, "--seed", str(seed), *more]
        return arguments, read_command(Toy, arguments, prog="python -m toy.train", description="")

    return read


def plan(folder: Path, read: Callable[[str, int], tuple[list[str], Command[Toy]]], **change: Any) -> list[Planned]:
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

    def read(name: str, seed: int) -> tuple[list[str], Command[Toy]]:
        arguments, command = read_toy()(name, seed)
        return arguments, Command(**(vars(command) | changes))

    with pytest.raises(UserError, match=f"^--{option} is for one run"):
        plan(tmp_path, read)


def test_directories_are_the_comparisons_own(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--output_dir: each run has a directory of its own"):
        plan(tmp_path, read_toy("--output_dir", str(tmp_path / "x")))


def test_budgets_of_all_names_are_equal(tmp_path: Path) -> None:
    def read(name: str, seed: int) -> tuple[list[str], Command[Toy]]:
        return read_toy("--max_steps", {"a": "2", "b": "3"}[name])(name, seed)

    with pytest.raises(UserError, match=r"^max_steps: a has 2, b has 3: no equal terms$") as refused:
        plan(tmp_path, read)
    assert refused.value.hint == "Set it for all: --max_steps VALUE."
    assert len(plan(tmp_path, read, budget=("lr", "seed"))) == 4, "other keys may differ"


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


def test_page_picture_and_table_are_of_the_same_runs(make_run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paths = [
        make_run("g0", {0: 0.2, 10: 0.6}, algorithm="größer", metric="reward"),
        make_run("r0", {0: 0.3, 10: 0.4}, algorithm="rloo", metric="reward"),
    ]
    written: list[tuple] = []
    monkeypatch.setattr("rlhf.report.comparison_page.write_comparison", lambda *given: written.append(given))
    monkeypatch.setattr("rlhf.report.picture.write_png", lambda *given: written.append(given))
    encodings: list[str | None] = []

    def write_text(file: Path, text: str, encoding: str | None = None) -> None:
        encodings.append(encoding)
        file.write_bytes(text.encode("utf-8"))

    monkeypatch.setattr(Path, "write_text", write_text)
    planned = [Planned(path.name, path, "toy.train", []) for path in paths]
    text = write_all(planned, tmp_path, key="algorithm", metric="reward")
    assert written == [
        (paths, tmp_path / "comparison.html", "algorithm"),
        (paths, tmp_path / "comparison.png", "algorithm"),
    ]
    assert text == table(paths, key="algorithm", metric="reward")
    assert rows_of(text)[2][0] == "größer"
    assert (tmp_path / "comparison.md").read_bytes().decode("utf-8") == text
    assert encodings == ["utf-8"], "whatever the system's is"
    assert write_all(planned, tmp_path, key="algorithm") == "", "accuracy is what is looked for, and nobody measured it"


def test_seconds_and_tokens_by_hand(make_run) -> None:
    """Seconds of a step are the sum of its times: 2 + 3 and 4; tokens are seconds times speed, where it was logged:
    2 * 10 + 3 * 20 = 80 and 0. Means over the seeds: 4.5 and 40.
    """
    paths = [make_run(f"g{seed}", {0: 0.2, 10: 0.4}, seed=seed, algorithm="grpo") for seed in (0, 1)]
    (paths[1] / "metrics.jsonl").write_text(json.dumps({"step": 1, "time/update_s": 4.0, "uptime/x_s": 9.0}) + "\n")
    (*_, row) = rows_of(table(paths, key="algorithm", metric="accuracy"))
    assert row[5:] == ["4", "40"], "4.5 is rounded to even"
    for number, path in enumerate(paths):
        rows = [{"step": 1, "time/update_s": 1000.0, "speed/tokens_per_s": 1000.0 * (number + 1)}]
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (*_, row) = rows_of(table(paths, key="algorithm", metric="accuracy"))
    assert row[5:] == ["1000", "1,500,000"]


def test_the_whole_table_as_text(make_run) -> None:
    run = make_run("g0", {0: 0.2, 10: 0.4}, algorithm="grpo")
    assert table([run], key="algorithm", metric="accuracy") == (
        "Held-out accuracy on words:\n"
        "\n"
        "| algorithm | before | after | seeds | mean over training | seconds | tokens |\n"
        "|---|---|---|---|---|---|---|\n"
        "| grpo | 0.200 | 0.400 (one seed) | 0.400 | 0.300 (one seed) | 5 | 80 |\n"
    )
