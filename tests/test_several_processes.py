"""Several real processes take the steps of one. All trainers, and three processes: tests/several_processes.py."""

import json
from pathlib import Path

import pytest
import several_processes
import shape_checks
from several_processes import compare, cut_back, fork, other_metrics, run_all, write_data

from benchmarks.kill_and_resume import warm_up

TRAINERS = ["SFT", "DPO", "DAPO", "PPO", "distillation"]
RESUMED = ["SFT", "DAPO"]  # on another number of processes


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Each trainer in this process; all in two others, of which one then fails alone; what these said."""
    with pytest.MonkeyPatch.context() as patch, shape_checks.switched_off():
        folder = tmp_path_factory.mktemp("runs")
        patch.setenv("RLHF_CACHE", str(folder / "cache"))
        patch.setattr("sys.argv", [])
        write_data(folder)
        patch.setattr("rlhf.run.session.write_report", lambda path: path)
        warm_up()
        codes, said = fork(2, folder / "two", TRAINERS, then="fail in one")
        assert 0 not in codes, "one process has failed"
        run_all(folder / "one", TRAINERS)
        for name in RESUMED:
            cut_back(folder / "one" / name, folder / "one, then two" / name)
            cut_back(folder / "two" / name, folder / "two, then one" / name)
        codes, told = fork(2, folder / "one, then two", RESUMED, more=["--resume"])
        assert codes == [0, 0], told
        run_all(folder / "two, then one", RESUMED, more=["--resume"])
    return folder / "one", folder / "two", said


@pytest.mark.parametrize("name", TRAINERS)
def test_two_processes_take_the_steps_of_one(runs: tuple[Path, Path, str], name: str) -> None:
    one, two, said = runs
    assert (two / name / "final").is_dir(), said
    assert not (two / name / "not_finite.pt").exists()
    difference = compare(one / name, two / name)
    assert difference.processes == 2
    assert difference.gradient < 1e-4
    assert difference.norm < 1e-4
    assert difference.other_completions == 0
    assert difference.completions > 0 or name == "SFT"
    assert difference.measured < 1e-3
    assert difference.weights < 0.02


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("before", ["one", "two"])
def test_a_run_goes_on_in_another_number_of_processes(runs: tuple[Path, Path, str], name: str, before: str) -> None:
    """Each takes the second step of the run that it goes on from: rounding alone differs, of metrics and of weights."""
    run = runs[0].parent / before / name
    resumed = runs[0].parent / {"one": "one, then two", "two": "two, then one"}[before] / name
    (told,) = json.loads((resumed / "provenance.json").read_text())["resumed"]
    assert told["step"] == 1
    assert told["processes"] == {"one": 2, "two": 1}[before]
    assert other_metrics(run, resumed, step=2) == {}
    assert compare(run, resumed).weights < 1e-3


def test_an_error_in_one_process_ends_the_others(runs: tuple[Path, Path, str]) -> None:
    """It says so; the other, which waits for it, ends as well, within seconds and not after half an hour."""
    said = runs[2]
    assert "error: this one ends alone" in said
    assert "another process of this run has ended" in said


def test_every_trainer_is_in_the_command() -> None:
    modules = {module for module, _ in several_processes.TRAINERS.values()}
    scripts = (path for path in several_processes.ROOT.glob("*/train*.py") if (path.parent / "configs").is_dir())
    trainers = {f"{path.parent.name}.{path.stem}" for path in scripts}
    assert modules == trainers
