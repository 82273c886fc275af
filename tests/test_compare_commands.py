"""The `compare` command of every family: which runs it plans, and on which terms they are equal. Nothing is trained."""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf.errors import UserError
from rlhf.report.over_seeds import read_groups
from rlhf.run.sweep import Planned

# The family, the option that takes names with its values, and the trainers that are called.
COMMANDS = [
    ("policy_gradients", ["--algorithms", "grpo,rloo"], ["train", "train"]),
    ("direct_alignment", ["--losses", "dpo,ipo"], ["train", "train"]),
    ("rejection_sampling", ["--selections", "all"], ["train"] * 4),
    ("distillation", ["--objectives", "all"], ["train"] * 5),
    ("instruction_tuning", ["--losses", "all"], ["train"] * 2),
    ("reward_models", ["--trainers", "all"], ["train_preference_rm", "train_orm", "train_prm"]),
]


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """What a `compare` command would make, and how it would show it."""

    def of(family: str, *arguments: str) -> tuple[list[Planned], dict[str, Any]]:
        made: list[Planned] = []
        shown: dict[str, Any] = {}
        monkeypatch.setattr("rlhf.run.compare.make_all", lambda planned, **_: made.extend(planned))
        monkeypatch.setattr("rlhf.run.compare.write_all", lambda planned, folder, **how: shown.update(how) or "")
        monkeypatch.setattr("direct_alignment.compare.add_displacement", lambda paths, folder: ("", []))
        given = ["--seeds", "1", "--folder", str(tmp_path / "out"), "--profile", "laptop", *arguments]
        monkeypatch.setattr(sys, "argv", ["compare", *given])
        assert import_module(f"{family}.compare").main() == 0
        return made, shown

    return of


@pytest.mark.parametrize(("family", "names", "trainers"), COMMANDS)
def test_every_family_compares_on_equal_terms(plan, family: str, names: list[str], trainers: list[str]) -> None:
    made, shown = plan(family, *names, "--max_steps", "3")
    assert [run.module for run in made] == [f"{family}.{trainer}" for trainer in trainers]
    assert all(run.config["max_steps"] == 3 and run.config["seed"] == 0 for run in made)
    assert (shown["by"], shown["against"]) == ("steps", made[0].path)


@pytest.mark.parametrize("family", ["policy_gradients", "rejection_sampling", "distillation"])
def test_those_that_sample_are_read_at_equal_sampled_tokens(plan, family: str) -> None:
    made, shown = plan(family, "--equal", "sampled_tokens", "--max_steps", "3", "--seeds", "2")
    assert shown["by"] == "sampled_tokens"
    assert {run.config["max_steps"] for run in made} == {3}
    assert {run.config["seed"] for run in made} == {0, 1}, "seeds are the same of all, so that runs are pairs"


def test_settings_of_one_reward_model_side_by_side(plan) -> None:
    made, shown = plan("reward_models", "--trainers", "train_orm", "--vary", "orm_loss=tokens,last", "--seeds", "2")
    assert [run.config["orm_loss"] for run in made] == ["tokens", "last"] * 2
    assert [run.path.name for run in made[:2]] == ["train_orm-orm_loss-tokens-seed0", "train_orm-orm_loss-last-seed0"]
    assert shown["key"] == ["orm_loss"], "the trainer is the same"
    _, shown = plan("instruction_tuning", "--vary", "lr=1e-4,3e-4", "--losses", "nll,dft", "--against", "dft")
    assert shown["key"] == ["loss", "lr"]
    assert shown["against"].name == "dft-lr-1e-4-seed0"


@pytest.mark.parametrize("given", [["--lr", "1e-3"], ["--lr=1e-3"]])
def test_what_is_varied_is_not_given_to_all(plan, given: list[str]) -> None:
    with pytest.raises(UserError, match="--lr: all runs get it, and --vary gives it several values"):
        plan("instruction_tuning", "--vary", "lr=1e-4,3e-4", *given)


def test_the_baseline_is_one_of_those_that_are_compared(plan) -> None:
    with pytest.raises(UserError, match="--against kto: not one of the losses that are compared: dpo, ipo"):
        plan("direct_alignment", "--losses", "dpo,ipo", "--against", "kto")


def test_reward_models_of_other_data_are_refused(plan) -> None:
    """Each of the `gpu:` blocks has a data set of its own."""
    with pytest.raises(UserError, match=r"data.path: train_orm has .* no equal terms"):
        plan("reward_models", "--trainers", "train_preference_rm,train_orm", "--profile", "gpu")


def test_trainers_name_the_lines(tmp_path: Path) -> None:
    for name in ("train_orm", "train_prm"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(yaml.safe_dump({"seed": 0, "lr": 1.0}))
        (folder / "provenance.json").write_text(json.dumps({"trainer": f"reward_models.{name}"}))
    groups = read_groups([tmp_path / "train_orm", tmp_path / "train_prm"], "trainer")
    assert [group.label for group in groups] == ["train_orm", "train_prm"]
