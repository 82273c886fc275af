"""Several algorithms by one command: equal terms, going on where it stopped, one table."""

import sys
from pathlib import Path

import pytest
from commands import SMALL

from policy_gradients import compare
from rlhf.comparison import Planned
from rlhf.errors import UserError

FEW = [*SMALL, "--max_steps", "2", "--max_new_tokens", "24"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | None:
    monkeypatch.setattr(sys, "argv", ["compare", *arguments])
    return compare.main()


def test_two_algorithms_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    arguments = ["--algorithms", "grpo,rloo", "--seeds", "1", "--folder", str(tmp_path), *FEW]
    assert run(monkeypatch, *arguments) == 0
    table = (tmp_path / "comparison.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    assert rows[0] == ["algorithm", "before", "after", "seeds", "mean over training", "seconds", "tokens"]
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
