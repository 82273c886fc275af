"""Several algorithms by one command: equal terms, going on where it stopped, one table."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from commands import SMALL, Commands

from policy_gradients import compare
from rlhf.errors import UserError
from rlhf.run.inputs import inputs
from rlhf.run.sweep import Planned, refuse_stale

FEW = [*SMALL, "--max_steps", "2", "--max_new_tokens", "16", "--eval_problems", "2"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | None:
    monkeypatch.setattr(sys, "argv", ["compare", *arguments])
    return compare.main()


def test_two_algorithms_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """The runs are made in this process, since loading torch anew takes seconds."""

    def make(module: str, arguments: Sequence[str], **_) -> tuple[int, str]:
        assert module == "policy_gradients.train"
        with monkeypatch.context() as patch:
            patch.setattr("rlhf.run.session.write_report", lambda path: path)
            outcome = Commands(patch, capfd).policy_gradients(*arguments)
        return outcome.code, outcome.out

    monkeypatch.setattr("rlhf.run.sweep.run_module", make)
    arguments = ["--algorithms", "grpo,rloo", "--seeds", "1", "--folder", str(tmp_path), *FEW]
    assert run(monkeypatch, *arguments) == 0
    table, against = (tmp_path / "comparison.md").read_text().split("against grpo:")
    assert "| rloo | 0.000 (one seed) | +0.000 (one seed) | 0.500" in against
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    head = ["algorithm", "before", "after", "seeds", "mean over training", "optimizer steps", "seconds", "tokens"]
    assert rows[0] == head
    assert [row[5] for row in rows[2:]] == ["2", "2"]
    assert [row[0] for row in rows[2:]] == ["grpo", "rloo"]
    assert rows[2][1] == rows[3][1], "the same model before"
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "<html" in (tmp_path / "comparison.html").read_text()
    capfd.readouterr()
    assert run(monkeypatch, *arguments) == 0
    assert capfd.readouterr().out.count("there already") == 2


def test_a_run_that_was_begun_is_resumed(tmp_path: Path) -> None:
    planned = Planned("grpo", tmp_path, "policy_gradients.train", ["--seed", "0"])
    assert "--resume" not in planned.command
    (tmp_path / "config.yaml").touch()
    assert planned.command[-1] == "--resume"
    (tmp_path / "final").mkdir()
    assert planned.done


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--algorithms", "grpo,rlooo"], "did you mean 'rloo'"),
        (["--seeds", "0"], "at least 1"),
        (["--max_stepz", "3"], "did you mean '--max_steps'"),
        (["--max_steps", "0"], "max_steps"),
    ],
)
def test_mistakes_are_told_before_any_run(tmp_path: Path, monkeypatch, arguments: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        run(monkeypatch, "--folder", str(tmp_path / "new"), *arguments)
    assert not (tmp_path / "new").exists()


def test_unequal_terms_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "configs"
    other.mkdir()
    for name, steps in (("grpo", 5), ("rloo", 6)):
        (other / f"{name}.yaml").write_text(f"algorithm: {name}\nmax_steps: {steps}\n")
    monkeypatch.setattr(compare, "CONFIGS", other)
    with pytest.raises(UserError, match="max_steps: rloo has 6, grpo has 5"):
        run(monkeypatch, "--algorithms", "grpo,rloo", "--folder", str(tmp_path / "new"))


def test_a_table_of_somebody_else_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "comparison.md").write_text("# My comparison")
    with pytest.raises(UserError, match="no table of this project"):
        run(monkeypatch, "--algorithms", "grpo,rloo", "--folder", str(tmp_path), *FEW)
    assert [file.name for file in tmp_path.iterdir()] == ["comparison.md"]


def stale(run: Path, **settings: object) -> Planned:
    """A planned run, where there is one with the settings `there` and a file that held something else."""
    (run / "config.yaml").write_text("max_steps: 1\ntask: spell_backward\noutput_dir: x\nsave_every: 5\n")
    return Planned("grpo", run, "policy_gradients.train", [], {"max_steps": 1, "task": "spell_backward", **settings})


def test_a_run_with_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    refuse_stale(stale(tmp_path))
    refuse_stale(stale(tmp_path, save_every=9, output_dir="elsewhere"))  # how it was kept changes nothing
    with pytest.raises(UserError, match=rf"{tmp_path}.*max_steps is 1 there, 2 is asked for; task is spell_backward"):
        refuse_stale(stale(tmp_path, max_steps=2, task="step_arithmetic"))


def test_a_run_on_a_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "rewards.py"
    data.write_text("def f(problem, completion): return 1.0")
    wanted = {"reward_functions": {f"{data}:f": 1.0}}
    (tmp_path / "provenance.json").write_text(json.dumps({"inputs": inputs(wanted)}))
    refuse_stale(stale(tmp_path, **wanted))
    data.write_text("def f(problem, completion): return 2.0")
    with pytest.raises(UserError, match="has changed since"):
        refuse_stale(stale(tmp_path, **wanted))


def test_same_command_with_other_settings_is_refused_before_any_run(tmp_path: Path, monkeypatch) -> None:
    """The runs were made with 2 steps."""
    arguments = ["--algorithms", "grpo", "--seeds", "1", "--folder", str(tmp_path), *FEW]
    config = tmp_path / "grpo-seed0" / "config.yaml"
    config.parent.mkdir()
    config.write_text("algorithm: grpo\nmax_steps: 2\nclip_low: 0.2\n")
    monkeypatch.setattr("rlhf.run.compare.make_all", lambda planned, **_: None)
    monkeypatch.setattr("rlhf.run.compare.write_all", lambda *_, **__: "")
    assert run(monkeypatch, *arguments) == 0  # with nothing left open: clip_low is what null stands for
    for other in (["--max_steps", "3"], ["--clip_low", "0.1", "--staleness", "1"]):
        with pytest.raises(UserError, match="grpo-seed0' is a run with other settings"):
            run(monkeypatch, *arguments, *other)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--algorithms", "grpo,grpo"], "grpo is given twice"),
        (["--algorithms", "grpo,rloo", "--config", "policy_gradients/configs/grpo.yaml"], "algorithm is grpo .*rloo"),
        (["--algorithms", "grpo,rloo", "--algorithm", "grpo"], "algorithm is grpo .*rloo"),
        (["--algorithms", "grpo", "--seed", "5"], "seed is 5 .*asks for 0"),
        (["--algorithms", "grpo", "--output_dir", "x"], "--folder|directory of its own"),
        (["--algorithms", "grpo", "--overwrite"], "--overwrite is for one run"),
    ],
)
def test_what_contradicts_the_comparison_is_refused(tmp_path: Path, monkeypatch, arguments, said: str) -> None:
    with pytest.raises(UserError, match=said):
        run(monkeypatch, "--folder", str(tmp_path / "new"), *arguments)
    assert not (tmp_path / "new").exists()


def test_equal_optimizer_steps_are_fewer_batches_of_those_that_take_several(tmp_path: Path, monkeypatch) -> None:
    """24 of them: 24 batches of GRPO, 6 of GSPO; 6 of PPO with its 2 passes of 2, after 3 that warm its critic up."""
    made: list[Planned] = []
    monkeypatch.setattr("rlhf.run.compare.make_all", lambda planned, **_: made.extend(planned))
    read_by = []
    monkeypatch.setattr("rlhf.run.compare.write_all", lambda *_, by, **__: read_by.append(by) or "")
    asked = ["--algorithms", "grpo,gspo", "--seeds", "1", "--folder", str(tmp_path), "--profile", "laptop"]
    run(monkeypatch, *asked, "--max_steps", "24")
    assert [it.config["max_steps"] for it in made] == [24, 24]
    made.clear()
    run(monkeypatch, *asked, "--max_steps", "24", "--equal", "sampled_tokens")
    assert [it.config["max_steps"] for it in made] == [24, 24], "runs are as they are, and read at the same tokens"
    made.clear()
    run(monkeypatch, *asked, "--max_steps", "24", "--equal", "optimizer_steps")
    assert [it.config["max_steps"] for it in made] == [24, 6]
    assert made[1].arguments[-2:] == ["--max_steps", "6"]
    assert read_by == ["steps", "sampled_tokens", "optimizer_steps"]
    with pytest.raises(UserError, match="max_steps 25: gspo takes 4 optimizer steps on a batch") as refused:
        run(monkeypatch, *asked, "--max_steps", "25", "--equal", "optimizer_steps")
    assert refused.value.hint == "--max_steps 28, for example."
    ppo = compare.read("ppo", 0, ["--profile", "laptop", "--max_steps", "24", "--critic.warmup_batches", "3"])[1].config
    assert compare.batches(ppo) == 6 + 3
