"""What is a run of ours, and may be replaced: more than a file name, and nothing besides."""

import json
import shlex
from pathlib import Path

import pytest
import yaml
from pydantic import Field

from rlhf.config.command import Command, read_command
from rlhf.config.trainer import TrainerConfig
from rlhf.errors import UserError
from rlhf.run.directory import (
    is_leftover,
    look_at,
    make_folder,
    refuse_to_replace,
    remove_contents,
    why_not_ours,
    with_free_directory,
)

CONFIG = {
    "model_name": "embedded",
    "max_steps": 2,
    "seed": 0,
    "output_dir": "x",
    "save_every": 1,
    "wandb_project": None,
}
OLD = ("title", "command", "git_commit", "versions", "seed", "profile", "started", "metrics", "headline")
FILES = [
    *("metrics.jsonl", "eval.jsonl", "samples.jsonl", "advice.jsonl", "report.html", "evaluation.html", ".lock"),
    *("best.safetensors", ".partial_best.safetensors", "not_finite.pt", ".partial_config.yaml", ".report.html.123"),
    *("final/model.safetensors", "final/model-00001-of-00002.safetensors", "final/config.json", "final/tokenizer.json"),
    *("final/chat_template.jinja", "final/generation_config.json", ".partial_final/config.json"),
    *("checkpoints/step_2/manifest.json", "checkpoints/step_2/optimizer.bin", "checkpoints/step_2/random_states_0.pkl"),
    *("checkpoints/step_2/model.safetensors", "checkpoints/step_2/custom_checkpoint_0.pkl"),
    *("checkpoints/step_2/best.safetensors", "checkpoints/.partial_step_3/optimizer_1.bin"),
    *(
        "wandb/offline-run-20260101_1-x/files/config.yaml",
        "wandb/run-20260101_1-x/run-x.wandb",
        "wandb/debug-internal.log",
    ),
    *("rlhf-lab/events.out.tfevents.1.host.2.0", "rlhf-lab/1795654.12/hparams.yml"),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "provenance.json").write_text(json.dumps({"made_by": "rlhf-lab", "trainer": "x.train"}))
    return folder


def test_all_that_runs_write_is_known(run: Path) -> None:
    assert why_not_ours(run) is None


def test_early_runs_are_known_by_their_keys(run: Path) -> None:
    (run / "provenance.json").write_text(json.dumps(dict.fromkeys(OLD, "x")))
    assert why_not_ours(run) is None
    (run / "provenance.json").write_text(json.dumps(dict.fromkeys(OLD[1:], "x")))
    assert "provenance.json" in str(why_not_ours(run))


@pytest.mark.parametrize(
    "name",
    [
        *("wandb/run-novel/novel.odt", "wandb/run-20260101_1-x/novel.odt", "wandb/run-20260101_1-x/files/plan.md"),
        *("final/model-of-mine.safetensors", "final/tokenizer_notes", "checkpoints/step_2/optimizer_notes"),
        *("novel.odt", "notes/x", "final/notes.txt", "final/old/model.safetensors", "checkpoints/step_2.copy/x"),
        *("checkpoints/step_2/notes.md", "checkpoints/mine", ".git/HEAD", "wandb/mine.txt", "runs/other/config.yaml"),
        *("metrics.jsonl.copy", "config.yaml~", "other-project/events.out.tfevents.1"),
    ],
)
def test_anything_else_is_somebodys(run: Path, name: str) -> None:
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).touch()
    with pytest.raises(UserError, match="is left alone: it also holds '") as caught:
        refuse_to_replace(run)
    assert name.split("/")[0] in str(caught.value.message)


def test_links_are_somebodys(run: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (run / "report.html").unlink()
    (run / "report.html").symlink_to(tmp_path / "elsewhere")
    assert "report.html" in str(why_not_ours(run))


@pytest.mark.parametrize("config", ["mine: 1\n", "", "- a\n", ": :\n", None])
def test_a_file_called_config_makes_no_run(tmp_path: Path, config: str | None) -> None:
    if config is not None:
        (tmp_path / "config.yaml").write_text(config)
    assert why_not_ours(tmp_path) is not None
    (tmp_path / "provenance.json").write_text(json.dumps({"made_by": "somebody"}))
    assert why_not_ours(tmp_path) is not None


def test_root_home_and_current_folder_are_never_replaced(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where they hold a run and nothing else."""
    with monkeypatch.context() as patch:
        patch.setenv("HOME", str(run))
        with pytest.raises(UserError, match="it is the home folder"):
            refuse_to_replace(run)
    with pytest.raises(UserError, match="it is the root folder"):
        refuse_to_replace(Path("/"))
    monkeypatch.chdir(run / "final")
    with pytest.raises(UserError, match="current folder"):
        refuse_to_replace(run)
    monkeypatch.chdir(run.parent)
    refuse_to_replace(run)


def test_what_a_killed_start_leaves_is_nothing(tmp_path: Path) -> None:
    for name in (".lock", ".partial_config.yaml", ".partial_provenance.json"):
        (tmp_path / name).touch()
    assert is_leftover(tmp_path)
    (tmp_path / "provenance.json").write_text(json.dumps({"made_by": "rlhf-lab"}))
    assert is_leftover(tmp_path)
    (tmp_path / "provenance.json").write_text("{}")
    assert not is_leftover(tmp_path)
    (tmp_path / "provenance.json").unlink()
    (tmp_path / "config.yaml").touch()
    assert not is_leftover(tmp_path)


def test_replacing_through_a_link_spares_what_is_beside_the_target(run: Path, tmp_path: Path) -> None:
    neighbour = tmp_path / "neighbour"
    neighbour.mkdir()
    link = tmp_path / "link"
    link.symlink_to(run)
    refuse_to_replace(link)
    remove_contents(link)
    assert [it.name for it in run.iterdir()] == [".lock"]
    assert link.is_symlink()
    assert neighbour.is_dir()


def test_folders_that_were_made_are_named_innermost_first(tmp_path: Path) -> None:
    assert make_folder(tmp_path / "a" / "b") == [tmp_path / "a" / "b", tmp_path / "a"]
    assert make_folder(tmp_path / "a" / "b") == []


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made: Not a directory"):
        make_folder(tmp_path / "file" / "run")


def test_a_config_that_grows_without_end_is_no_run(run: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    (run / "config.yaml").write_text("\n".join(lines))
    assert "config.yaml" in str(why_not_ours(run))


class Toy(TrainerConfig):
    """Toy"""

    max_steps: int = Field(5, gt=0, description="Steps.")


def command_for(words: str = "") -> Command[Toy]:
    argv = shlex.split(words)
    command = read_command(Toy, argv, prog="toy.train", description="", default_config=Path("toy.yaml"), environ={})
    return with_free_directory(command)


def test_a_run_that_names_no_directory_gets_the_next_free_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is said. What a process left that was killed before its run began is no run: its place is free."""
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text("lr: 0.1\n")
    assert (command_for().config.output_dir, command_for().notes) == ("runs/toy-seed0", ())
    Path("runs/toy-seed0").mkdir(parents=True)
    Path("runs/toy-seed0/.lock").touch()
    assert command_for().config.output_dir == "runs/toy-seed0"
    Path("runs/toy-seed0/config.yaml").touch()
    Path("runs/toy-seed0-2").write_text("a file")
    command = command_for()
    assert command.config.output_dir == "runs/toy-seed0-3"
    assert command.notes == ("runs/toy-seed0 is there already: this run is runs/toy-seed0-3",)
    assert command_for("--seed 1").config.output_dir == "runs/toy-seed1"


@pytest.mark.parametrize("words", ["--output_dir runs/toy-seed0", "--config named.yaml", "--overwrite"])
def test_a_directory_that_is_named_stays(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the command line, in a file, or as the run to replace."""
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text("lr: 0.1\n")
    Path("named.yaml").write_text("output_dir: runs/toy-seed0\n")
    Path("runs/toy-seed0/final").mkdir(parents=True)
    command = command_for(words)
    assert (command.config.output_dir, command.notes) == ("runs/toy-seed0", ())
    with pytest.raises(UserError, match=r"exists already|is left alone"):
        look_at(command)
