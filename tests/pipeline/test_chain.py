"""The chain: which runs it has, that they are used again, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_model

from pipeline import results
from pipeline.config import CONFIGS, read_config
from pipeline.measure import measure
from pipeline.run import read_options, run
from pipeline.stages import Chain
from rlhf.errors import UserError
from rlhf.logprobs import Scorer
from rlhf.models.names import EMBEDDED_JUDGE
from rlhf.models.policy import load
from rlhf.run.planned import PlannedFile, merged
from rlhf.run.sweep import Planned

CONFIG = read_config("laptop")


def chain(tmp_path: Path, **changes: Any) -> Chain:
    return Chain(CONFIG.model_copy(update=changes), 3, tmp_path)


def test_the_runs_of_a_seed(tmp_path: Path) -> None:
    """Every line but best-of-n is a run, against the reward models that it names, from problems of another stream."""
    made = {run.path.name: run for run in chain(tmp_path).stage("optimizers")}
    assert set(made) == set(CONFIG.optimizers) - {"best_of_n"}
    models = tmp_path / "reward_models"
    assert made["grpo"].config["reward_model"] == str(models / "proxy")
    assert made["grpo_min"].config["reward_model"] == [str(models / name) for name in ("proxy", "second", "third")]
    assert made["grpo_min"].config["reward_model_combine"] == "min"
    assert made["dpo"].config["data"]["path"] == str(chain(tmp_path).stage("judged")[0].path)
    assert {run.config["seed"] for run in made.values()} == {3}
    seeds = [run.config["seed"] for run in chain(tmp_path).stage("reward_models")]
    assert sorted(seeds) == [3, 3, 3, 1003, 2003]  # members of an ensemble differ in their seed
    pairs = [chain(tmp_path).stage(stage)[0].arguments for stage in ("preferences", "judged")]
    assert [arguments[arguments.index("--seed") + 1] for arguments in pairs] == ["103", "203"]


def test_reward_models_that_no_line_names_are_not_made(tmp_path: Path) -> None:
    alone = chain(tmp_path, optimizers={"grpo": CONFIG.optimizers["grpo"]})
    assert [run.path.name for run in alone.stage("reward_models")] == ["proxy"]
    assert alone.stage("judged") == []


def test_other_labels_are_another_file(tmp_path: Path) -> None:
    noisier = CONFIG.preferences.model_copy(update={"label_noise": 0.9})
    assert chain(tmp_path).preferences.path != chain(tmp_path, preferences=noisier).preferences.path
    assert chain(tmp_path).preferences.path == chain(tmp_path).preferences.path


@pytest.mark.parametrize("setting", [{"seed": 1}, {"reward_model": "a"}, {"task": "gsm8k"}, {"system_prompt": "s"}])
def test_what_the_chain_decides_is_no_setting_of_a_line(tmp_path: Path, setting: dict[str, Any]) -> None:
    line = CONFIG.optimizers["grpo"].model_copy(update={"settings": setting})
    with pytest.raises(UserError, match=f"grpo: {next(iter(setting))} is decided by the chain"):
        chain(tmp_path, optimizers={"grpo": line}).stage("optimizers")


def test_a_setting_that_the_trainer_refuses_is_told_with_its_line(tmp_path: Path) -> None:
    line = CONFIG.optimizers["grpo"].model_copy(update={"settings": {"lrr": 1}})
    with pytest.raises(UserError, match=r"^grpo, seed 3: unknown option --lrr; did you mean '--lr'"):
        chain(tmp_path, optimizers={"grpo": line}).stage("optimizers")


def test_settings_are_merged_group_by_group() -> None:
    assert merged({"data": {"a": 1, "b": 2}, "lr": 1}, {"data": {"b": 3}}) == {"data": {"a": 1, "b": 3}, "lr": 1}


def with_line(name: str, **settings: Any) -> dict[str, Any]:
    """The lines of the config, one of them with other settings."""
    lines = yaml.safe_load((CONFIGS / "laptop.yaml").read_text())["optimizers"]
    return {"optimizers": lines | {name: lines[name] | settings}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, r":\d+: unknown key colour"),
        ({"preferences": {"label_noise": 2}}, r":\d+: preferences.label_noise is 2; accepted: a number >= 0 and <= 1"),
        ({"reward_models": {"prox": {}}}, r"there is no 'proxy' in reward_models; did you mean 'prox'"),
        ({"shared": {"policy_gradient": {"lr": 1.0}}}, r"shared.policy_gradient"),
        (with_line("dpo", reward_model=["proxy", "second"]), r"optimizers.dpo.reward_model: .* by one reward model"),
        (with_line("ppo", label="GRPO"), r"optimizers: two lines have the label 'GRPO'"),
        (with_line("best_of_n", settings={"lr": 1.0}), r"optimizers.best_of_n.settings: best_of_n trains nothing"),
    ],
)
def test_a_config_that_is_not_valid(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "chain.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load((CONFIGS / "laptop.yaml").read_text()) | change))
    with pytest.raises(UserError, match=message):
        read_config(str(file))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizers", "grop"], "there is no 'grop': did you mean 'grpo'"),
        (["--stages", "sft"], "there is no 'sft'"),
        (["--seeds", "0"], "--seeds is 0"),
        (["--label_noise", "1.5"], "--label_noise is 1.5"),
    ],
)
def test_options_that_are_not_valid(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(read_options([*arguments, "--plan"]))


def test_plan_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(read_options(["--plan", "--output_dir", str(tmp_path / "chain"), "--seeds", "2"])) == 0
    shown = capsys.readouterr().out
    assert "reward_models: 10 runs, 0 of them there" in shown
    assert "optimizers: 24 runs" in shown
    assert not (tmp_path / "chain").exists()


TINY = {
    "profile": "laptop",
    "shared": {"policy_gradients": {"max_steps": 2}},
    "reward_models": {"proxy": {"pairs": 40}},
    "optimizers": {name: CONFIG.optimizers[name].model_dump() for name in ("best_of_n", "grpo")},
    "max_new_tokens": 8,
    "evaluation": {"problems": 4, "best_of": 4, "best_of_problems": 2},
}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked for instead of being trained: the embedded judge is every reward model, and every policy is the
    embedded model, a little further off at each step. All happens in this process."""
    labels: list[str] = []

    def make(planned: Planned, **_: Any) -> None:
        labels.append(planned.label)
        if isinstance(planned, PlannedFile):
            planned.path.write_text("{}")
            return
        shutil.copytree(EMBEDDED_JUDGE, planned.path / "final")
        (planned.path / "config.yaml").write_text(yaml.safe_dump(dict(planned.config)))
        if "reward_models" in planned.path.parts:
            return
        policy, _ = load("embedded")
        for step in (1, 2):
            checkpoint = planned.path / "checkpoints" / f"step_{step}"
            checkpoint.mkdir(parents=True)
            with torch.no_grad():
                policy.model.norm.weight *= 1.2
            save_model(Scorer(policy), str(checkpoint / "model.safetensors"))

    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rlhf.run.sweep._make", make)
    monkeypatch.setattr(results, "measure_all", lambda jobs, at_once: list(map(measure, jobs)))
    return labels


def test_the_whole_chain_and_that_it_goes_on(tmp_path: Path, made: list[str]) -> None:
    """From the config to the picture; the second time nothing is made, and the results are the same."""
    file, folder = tmp_path / "tiny.yaml", tmp_path / "chain"
    file.write_text(yaml.safe_dump(TINY, sort_keys=False))
    options = read_options(["--config", str(file), "--output_dir", str(folder), "--at_once", "1", "--quiet"])
    assert run(options) == 0
    assert made == ["preferences, seed 0", "proxy, seed 0", "grpo, seed 0"]
    found = json.loads((folder / "results.json").read_text())
    assert [point["step"] for point in found["GRPO"]["points"]] == [0, 1, 2]
    assert [point["step"] for point in found["best-of-n"]["points"]] == [1, 2, 4]
    assert 0 == found["GRPO"]["points"][0]["kl"] < found["GRPO"]["points"][1]["kl"] < found["GRPO"]["points"][2]["kl"]
    assert found["GRPO"]["points"][0]["proxy"] == pytest.approx(0)
    assert (folder / "chain.png").stat().st_size > 10_000
    assert (folder / "chain.md").read_text().count("| GRPO |") == 2
    assert len((folder / "samples.jsonl").read_text().splitlines()) == 4  # the start for both lines, two checkpoints
    assert run(options) == 0
    assert len(made) == 3
    assert json.loads((folder / "results.json").read_text()) == found
    file.write_text(yaml.safe_dump({**TINY, "shared": {"policy_gradients": {"max_steps": 3}}}))
    with pytest.raises(UserError, match=r"is a run with other settings: .*max_steps is 2 there, 3 is asked for"):
        run(options)


def test_a_run_that_is_not_finished_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor by a reward model that is not finished: best-of-n has that alone."""
    for line in ("grpo", "best_of_n"):
        with pytest.raises(UserError, match="proxy: the run is not finished"):
            results.jobs_of(chain(tmp_path), line, CONFIG.optimizers[line])
    monkeypatch.setattr(Planned, "done", property(lambda run: run.path.parent.name == "reward_models"))
    (tmp_path / "optimizers" / "grpo" / "checkpoints" / "step_1").mkdir(parents=True)
    with pytest.raises(UserError, match="grpo: the run is not finished"):
        results.jobs_of(chain(tmp_path), "grpo", CONFIG.optimizers["grpo"])
    assert len(results.jobs_of(chain(tmp_path), "best_of_n", CONFIG.optimizers["best_of_n"])) == 2
