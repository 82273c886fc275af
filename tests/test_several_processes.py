"""Several real processes take the steps of one. All trainers, and three processes: tests/several_processes.py."""

import json
from pathlib import Path

import pytest
import several_processes
import shape_checks
from several_processes import compare, cut_back, fork, other_metrics, run_all, write_data

from benchmarks.kill_and_resume import warm_up

TRAINERS = ["SFT", "DPO", "DAPO", "PPO", "distillation"]
SHARDED = ["SFT", "DPO", "DAPO"]
FSDP = ["--fsdp", "true"]
# The trainer, where it took its first step, and how it goes on: in how many processes, with which arguments.
RESUMED = {
    "to two": ("DAPO", "one", 2, []),
    "to one": ("DAPO", "two", 1, []),
    "to shards": ("SFT", "one", 2, FSDP),
    "from shards": ("SFT", "sharded", 1, ["--fsdp", "false"]),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Each trainer in one process, this one, and in two, with all weights or a share of them; then runs that go on in
    another way. Their folder, and what two processes said of which one fails alone at the end."""
    with pytest.MonkeyPatch.context() as patch, shape_checks.switched_off():
        folder = tmp_path_factory.mktemp("runs")
        patch.setenv("RLHF_CACHE", str(folder / "cache"))
        patch.setattr("sys.argv", [])
        write_data(folder)
        patch.setattr("rlhf.run.session.write_report", lambda path: path)
        warm_up()
        codes, said = fork(2, folder / "two", TRAINERS, then="fail in one")
        assert 0 not in codes, "one process has failed"
        in_processes(2, folder / "sharded", SHARDED, FSDP)
        in_processes(1, folder / "one", TRAINERS, [])
        for how, (name, before, processes, more) in RESUMED.items():
            cut_back(folder / before / name, folder / how / name)
            in_processes(processes, folder / how, [name], ["--resume", *more])
    return folder, said


def in_processes(count: int, folder: Path, names: list[str], more: list[str]) -> None:
    if count == 1:
        run_all(folder, names, more=more)
    else:
        codes, said = fork(count, folder, names, more=more)
        assert codes == [0] * count, said


@pytest.mark.parametrize("name", TRAINERS)
def test_two_processes_take_the_steps_of_one(runs: tuple[Path, str], name: str) -> None:
    folder, said = runs
    assert (folder / "two" / name / "final").is_dir(), said
    assert_same_steps(folder / "one" / name, folder / "two" / name, texts=name == "SFT")


@pytest.mark.parametrize("name", SHARDED)
def test_two_processes_with_a_share_of_the_weights_take_the_steps_of_one(runs: tuple[Path, str], name: str) -> None:
    assert_same_steps(runs[0] / "one" / name, runs[0] / "sharded" / name, texts=name == "SFT")


def assert_same_steps(one: Path, two: Path, *, texts: bool) -> None:
    """`texts`: nothing is sampled."""
    assert not (two / "not_finite.pt").exists()
    difference = compare(one, two)
    assert difference.processes == 2
    assert difference.gradient < 1e-4
    assert difference.norm < 1e-4
    assert difference.other_completions == 0
    assert difference.completions > 0 or texts
    assert difference.measured < 1e-3
    assert difference.weights < 0.02


@pytest.mark.parametrize("how", RESUMED)
def test_a_run_goes_on_in_another_number_of_processes(runs: tuple[Path, str], how: str) -> None:
    """It takes the second step of the run that it goes on from: rounding alone differs, of metrics and of weights."""
    name, before, processes, _ = RESUMED[how]
    run, resumed = runs[0] / before / name, runs[0] / how / name
    (told,) = json.loads((resumed / "provenance.json").read_text())["resumed"]
    assert told["step"] == 1
    assert told["processes"] == processes
    assert other_metrics(run, resumed, step=2) == {}
    assert compare(run, resumed).weights < 1e-3


def test_an_error_in_one_process_ends_the_others(runs: tuple[Path, str]) -> None:
    """It says so; the other, which waits for it, ends as well, within seconds and not after half an hour."""
    said = runs[1]
    assert "error: this one ends alone" in said
    assert "another process of this run has ended" in said


def test_every_trainer_is_in_the_command() -> None:
    modules = {module for module, _ in several_processes.TRAINERS.values()}
    scripts = (path for path in several_processes.ROOT.glob("*/train*.py") if (path.parent / "configs").is_dir())
    trainers = {f"{path.parent.name}.{path.stem}" for path in scripts}
    assert modules == trainers
