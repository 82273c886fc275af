"""How a model is asked: its run's settings, under those of the command line."""

from importlib import import_module
from pathlib import Path

import pytest
from run_directories import write_run

from rlhf.config.options import Parser
from rlhf.errors import UserError
from rlhf.generate.settings import add_settings, given_settings, run_of, settings_for, tasks_of


def options(*arguments: str) -> dict:
    parser = Parser()
    add_settings(parser)
    return given_settings(parser.parse_args(arguments))


@pytest.fixture
def run(tmp_path: Path) -> str:
    config = {"system_prompt": "Be brief.", "temperature": 0.7, "max_new_tokens": 40, "stop_at": "answer", "lr": 1e-5}
    return str(write_run(tmp_path / "run", config=config))


def test_a_run_is_asked_as_it_was_trained(run: str) -> None:
    (found,) = settings_for([run], {}).values()
    assert (found.system_prompt, found.temperature, found.max_new_tokens) == ("Be brief.", 0.7, 40)
    assert (found.stop_at, found.answer_in, found.top_p) == ("answer", "think_tags", 1.0)
    assert found.in_words == "system prompt 'Be brief.', temperature 0.7, up to 40 tokens or </answer>"


def test_the_command_line_wins(run: str) -> None:
    given = options("--temperature", "0", "--system_prompt", "", "--top_k", "5", "--answer_in", "text")
    (found,) = settings_for([run], given).values()
    assert (found.temperature, found.system_prompt, found.top_k, found.answer_in) == (0, "", 5, "text")
    assert found.max_new_tokens == 40
    assert found.in_words.startswith("no system prompt, temperature 0, top_k 5")


def test_a_model_without_a_run_is_asked_as_the_run_beside_it(run: str, tmp_path: Path) -> None:
    other = str(write_run(tmp_path / "other", config={"max_new_tokens": 7}))
    found = settings_for(["embedded", run, other], {})
    assert [it.max_new_tokens for it in found.values()] == [40, 40, 7]
    assert settings_for(["embedded"], {})["embedded"].max_new_tokens == 256


def test_final_is_the_run_s(run: str) -> None:
    assert run_of(f"{run}/final") == run_of(run) == Path(run)
    assert run_of("embedded") is None


def test_a_setting_that_cannot_be_is_named_with_its_file(tmp_path: Path) -> None:
    run = str(write_run(tmp_path / "run", config={"temperature": "warm"}))
    with pytest.raises(UserError, match=r"config.yaml: temperature is \"warm\""):
        settings_for([run], {})


def test_a_trainer_that_samples_for_evaluation_has_its_length_there(tmp_path: Path) -> None:
    run = str(write_run(tmp_path / "run", config={"eval_max_new_tokens": 9}))
    assert settings_for([run], {})[run].max_new_tokens == 9


@pytest.mark.parametrize(
    ("config", "tasks"),
    [
        ({"task": "ab", "task_config": {"x": 1}}, {"ab": {"x": 1}}),
        ({"task": "ab", "tasks": {"c": {"weight": 2.0, "config": {"y": 2}}, "d": {}}}, {"c": {"y": 2}, "d": {}}),
        ({"task": None}, {}),
        ({"lr": 1.0}, {}),
    ],
)
def test_tasks_of_a_run(tmp_path: Path, config: dict, tasks: dict) -> None:
    assert tasks_of(write_run(tmp_path / "run", config=config)) == tasks


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("policy_gradients.train", []),
        ("rejection_sampling.train", ["--top_k", "7"]),
        ("distillation.train", ["--teacher_top_k", "7"]),
        ("distillation.train", ["--config", "self", "--profile", "gpu"]),
        ("direct_alignment.train", []),
        ("instruction_tuning.train", []),
    ],
)
def test_a_setting_means_the_same_in_every_trainer(tmp_path: Path, module: str, arguments: list[str]) -> None:
    """A run of any of them can be asked: none uses the name of a setting of sampling for something else."""
    config = import_module(module).read(["--profile", "laptop", *arguments]).config
    run = str(write_run(tmp_path / "run", config=config.model_dump(mode="json")))
    found = settings_for([run], {})[run]
    sampled_from = getattr(config, "kept_tokens", {})
    assert (found.top_k, found.top_p) == (sampled_from.get("top_k", 0), sampled_from.get("top_p", 1.0))
    assert found.temperature == getattr(config, "temperature", 1.0)
    assert found.system_prompt == getattr(config, "system_prompt", None)
