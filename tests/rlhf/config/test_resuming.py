"""What a continued run may be asked for: its own settings, a listed few anew, and everything anew only as a fork."""

import json
import re
import shlex
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field

from rlhf.config.command import Command, read_command
from rlhf.config.recorded import trainer_of
from rlhf.config.reference import ReferenceConfig
from rlhf.config.resuming import MAY_CHANGE
from rlhf.config.sampling import SamplingConfig
from rlhf.config.schema import Section
from rlhf.config.trainer import TrainerConfig
from rlhf.config.vllm import VllmConfig
from rlhf.config.yaml_file import to_yaml
from rlhf.errors import UserError


class Data(Section):
    path: str = Field("own", description="Path.")


class Toy(TrainerConfig):
    """Toy"""

    data: Data = Field(Data(), description="Data.")
    max_steps: int = Field(5, gt=0, description="Steps.")
    clip: float | None = Field(None, description="null is the algorithm's own, 0.2.")


def fill(config: Toy) -> Toy:
    return config.model_copy(update={"clip": 0.2 if config.clip is None else config.clip})


def read(
    words: str, *, trainer: str = "toy.train", env: dict[str, str] | None = None, config_class: type[Toy] = Toy
) -> Command[Any]:
    prog = f"python -m {trainer}"
    given: dict[str, Any] = {
        "prog": prog,
        "description": "",
        "environ": env or {},
        "cuda_gb": lambda: 0.0,
        "fill": fill,
    }
    return read_command(config_class, shlex.split(words), default_config=Path("default.yaml"), **given)


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of `--lr 1e-3 --profile laptop`, of other settings than the default file has by now."""
    monkeypatch.chdir(tmp_path)
    Path("default.yaml").write_text("lr: 0.1\nlaptop:\n  token_budget: 100\n")
    Path("own.yaml").write_text("lr: 1e-3\nclip: null\nlaptop:\n  token_budget: 512\ngpu:\n  token_budget: 9999\n")
    folder = tmp_path / "run"
    folder.mkdir()
    command = read("--config own.yaml --profile laptop --output_dir run")
    (folder / "config.yaml").write_text(to_yaml(fill(command.config)))
    (folder / "provenance.json").write_text(json.dumps({"trainer": "toy.train", "profile": "laptop"}))
    return folder


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--config own.yaml",
        "--config own.yaml --profile laptop",
        "--profile laptop",
        "--lr 0.001 --clip 0.2 --data.path own",
        "--clip null",
        "--config run/config.yaml",
    ],
)
def test_the_same_again_is_no_change(words: str) -> None:
    """Not asked for either: what the default file and the code's defaults have become."""
    command = read(f"--resume --output_dir run {words}")
    config = command.config
    assert (config.lr, config.token_budget, config.clip, config.max_steps) == (1e-3, 512, 0.2, 5)
    assert command.profile == "laptop"


def test_length_saving_logging_and_evaluation_may_change() -> None:
    words = "--max_steps 9 --save_every 3 --keep_checkpoints 1 --eval_every 2 --sample_every 4 --tensorboard"
    command = read(f"--resume --output_dir run {words}", env={"WANDB_PROJECT": "p"})
    for key, value in {"max_steps": 9, "save_every": 3, "eval_every": 2, "wandb_project": "p", "lr": 1e-3}.items():
        assert getattr(command.config, key) == value
    known = (Toy, VllmConfig, SamplingConfig, ReferenceConfig)
    assert set(MAY_CHANGE) <= {key for config_class in known for key in config_class.model_fields}


class Sampling(SamplingConfig, ReferenceConfig, Toy):
    """Toy that samples"""


@pytest.mark.parametrize(("key", "value"), [("memory_gb", 16), ("sampling_batch", 32), ("offload_reference", True)])
def test_a_run_that_ran_out_of_memory_goes_on_with_less(key: str, value: object) -> None:
    command = read(f"--resume --output_dir run --{key} {str(value).lower()}", config_class=Sampling)
    assert (getattr(command.config, key), command.config.lr) == (value, 1e-3)


def test_the_page_of_runs_lists_what_may_change() -> None:
    page = (Path(__file__).parents[3] / "docs" / "runs.md").read_text()
    (sentence,) = re.findall(r"What may change: (.+?) \(`rlhf/config/resuming\.py`\)", page, re.DOTALL)
    listed = re.findall(r"`([a-z_*]+)`", sentence)
    assert [name for name in listed if not any(fnmatch(key, name) for key in MAY_CHANGE)] == []
    assert [key for key in MAY_CHANGE if not any(fnmatch(key, name) for name in listed)] == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--lr 0.01", "lr is 0.001 in the run, 0.01 is asked for (command line)"),
        ("--data.path other.jsonl", 'data.path is "own" in the run, "other.jsonl" is asked for'),
        ("--seed 9", "seed is 0 in the run, 9 is asked for"),
        ("--clip 0.3", "clip is 0.2 in the run, 0.3 is asked for"),
        ("--config default.yaml", "lr is 0.001 in the run, 0.1 is asked for (default.yaml:1)"),
        ("--config own.yaml --profile gpu", "token_budget is 512 in the run, 9999 is asked for"),
        ("--profile gpu", "profile is laptop in the run, gpu is asked for"),
        ("--model_name other", 'model_name is "embedded" in the run'),
    ],
)
def test_anything_else_is_refused_with_old_and_new(words: str, says: str, run: Path) -> None:
    before = (run / "config.yaml").read_bytes()
    with pytest.raises(UserError) as caught:
        read(f"--resume --output_dir run {words}")
    assert says in caught.value.message
    assert "--fork NEW_DIR" in str(caught.value.hint)
    assert (run / "config.yaml").read_bytes() == before


def test_a_fork_takes_the_settings_of_the_run_and_those_asked_for() -> None:
    command = read("--output_dir run --fork new --lr 0.01 --max_steps 9")
    config = command.config
    assert (config.output_dir, config.lr, config.token_budget, config.max_steps) == ("new", 0.01, 512, 9)
    assert command.source == Path("run")


@pytest.mark.parametrize("words", ["--model_name other", "--lora_rank 4"])
def test_a_fork_keeps_what_its_weights_are_made_of(words: str) -> None:
    with pytest.raises(UserError, match="--fork starts from the weights of 'run'"):
        read(f"--output_dir run --fork new {words}")


@pytest.mark.parametrize("option", ["--resume", "--fork new"])
def test_another_trainers_run_is_refused(option: str) -> None:
    with pytest.raises(UserError, match=r"'run' is a run of toy.train, not of reward.train_orm"):
        read(f"--output_dir run {option}", trainer="reward.train_orm")


def test_early_runs_tell_their_trainer_by_their_command() -> None:
    assert trainer_of({"command": "python -m reward_models.train_orm --lr 1"}) == "reward_models.train_orm"
    assert trainer_of({"command": "python train.py"}) == ""
    assert trainer_of({}) == ""


def test_switches_that_contradict(run: Path) -> None:
    for other in ("--overwrite", "--fork new"):
        with pytest.raises(UserError, match="one of them"):
            read(f"--resume --output_dir run {other}")
    with pytest.raises(UserError, match="there is no run in 'nowhere'"):
        read("--resume --output_dir nowhere")


def test_the_run_may_have_moved(run: Path) -> None:
    run.rename(run.parent / "moved")
    assert read("--resume --output_dir moved").config.output_dir == "moved"


def test_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    command = read("--config ~/own.yaml --output_dir ~/experiments/one --model_name ~/m")
    assert (command.config.output_dir, command.config.model_name) == (f"{tmp_path}/experiments/one", f"{tmp_path}/m")
    assert read("--resume --output_dir ~/run").config.output_dir == f"{tmp_path}/run"
    Path("file.yaml").write_text(yaml.safe_dump({"output_dir": "~/y"}))
    assert read("--config file.yaml").config.output_dir == f"{tmp_path}/y"
    assert read("--output_dir a~b").config.output_dir == "a~b"


def test_a_config_that_was_edited_is_refused(run: Path) -> None:
    told = json.loads((run / "provenance.json").read_text())
    settings = json.loads(json.dumps(read("--output_dir run --resume").config.model_dump(mode="json")))
    (run / "provenance.json").write_text(json.dumps(told | {"settings": settings}))
    read("--output_dir run --resume --max_steps 9")
    text = (run / "config.yaml").read_text()
    for edited in (text.replace("lr: 0.001", "lr: 0.5"), "\n".join(it for it in text.splitlines() if "lr: " not in it)):
        (run / "config.yaml").write_text(edited)
        with pytest.raises(UserError, match=r"edited: lr is .*, the run was started with 0\.001"):
            read("--output_dir run --resume")
    (run / "config.yaml").write_text(text.replace("max_steps: 5", "max_steps: 7"))
    assert read("--output_dir run --resume").config.max_steps == 7


def test_a_fork_without_a_name_is_refused() -> None:
    with pytest.raises(UserError, match="is no path"):
        read("--output_dir run --fork ''")


@pytest.mark.parametrize("option", ["--resume", "--fork new"])
def test_of_several_runs_with_one_name_the_one_meant_is_asked_for(option: str, run: Path) -> None:
    """The name that a run gets by itself has several where the same command has run several times."""
    own = Path("runs/own-seed0")
    shutil.copytree(run, own)
    words = f"{option} --config own.yaml --profile laptop"
    assert (read(words).source or Path(str(read(words).config.output_dir))) == own
    shutil.copytree(run, "runs/own-seed0-2")
    with pytest.raises(UserError, match=r"which of runs/own-seed0, runs/own-seed0-2 is to be continued\?"):
        read(words)
    assert read(f"{words} --output_dir {own}").config.max_steps == 5
