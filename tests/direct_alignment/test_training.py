"""The loop, on a file of pairs: it learns, takes what it is told, and is cut without a trace."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from alignment_commands import SMALL, Commands, labelled, pairs, weights, write_rows
from steps_by_hand import save_tiny
from transformers import AutoModelForCausalLM

from direct_alignment.config import CONFIGS, LOSS_NAMES
from direct_alignment.losses import losses
from rlhf.models.policy import load_tokenizer
from rlhf.run.tracking import read_records


@pytest.fixture(autouse=True)
def _no_report(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.function is not test_run_directory:
        monkeypatch.setattr("rlhf.run.session.write_report", lambda path: path)


@pytest.fixture
def tiny(tmp_path: Path) -> list[str | Path]:
    """A model of 20 000 random weights, as options; the embedded one where a run has to answer problems."""
    return [*SMALL, "--task", "none", "--model_name", save_tiny(tmp_path / "tiny")]


def metrics(run: Path) -> list[dict[str, float]]:
    return read_records(run / "metrics.jsonl")


def evaluation(run: Path) -> dict[tuple[str, str], list[float]]:
    found: dict[tuple[str, str], list[float]] = {}
    for record in read_records(run / "eval.jsonl"):
        found.setdefault((record["data"], record["metric"]), []).append(record["value"])
    return found


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_every_loss_learns_what_is_preferred(
    commands: Commands, tiny: list[str | Path], data: Path, tmp_path: Path, loss: str
) -> None:
    """Capitals rather than "well, no": held-out pairs are ranked right after some steps."""
    run = tmp_path / "run"
    more = ["--max_steps", "10", "--save_every", "99", "--sample_every", "99", "--lr", "1e-2", "--warmup_steps", "0"]
    more += ["--eval_samples", "2", "--max_new_tokens", "12"]
    outcome = commands.train(*tiny, *more, "--loss", loss, "--data.path", data, "--output_dir", run)
    assert outcome.code == 0, outcome.err
    values = evaluation(run)
    accuracy = values["held-out pairs", "reward_accuracy"]
    assert accuracy[-1] > 0.9
    if "reference" in losses[loss].needs:
        assert accuracy[0] == 0.5  # every log-ratio is 0: all ties
        assert values["samples", "kl"][0] == pytest.approx(0, abs=1e-3)
    apart = [
        chosen - rejected for chosen, rejected in zip(values["chosen", "logp"], values["rejected", "logp"], strict=True)
    ]
    assert apart[-1] > apart[0]
    assert set(metrics(run)[-1]) - {"step", "wall_s"} <= set(
        json.loads((run / "provenance.json").read_text())["metrics"]
    )


def test_a_reference_that_moves_is_the_one_of_evaluation(
    commands: Commands, tiny: list[str | Path], data: Path, tmp_path: Path
) -> None:
    """It moves all the way to the policy after every step: then every log-ratio is 0, all held-out pairs are ties, and
    the loss is -log sigmoid(0). KL is still from the initial model, which the policy has left."""
    run = tmp_path / "run"
    moves = ["--sync_reference_every", "1", "--sync_reference_mix", "1", "--lr", "1e-2"]
    outcome = commands.train(*tiny, *moves, "--loss", "dpo", "--data.path", data, "--output_dir", run)
    assert outcome.code == 0, outcome.err
    values = evaluation(run)
    assert values["held-out pairs", "reward_accuracy"][-1] == 0.5
    assert values["held-out pairs", "margin"][-1] == pytest.approx(0, abs=1e-4)
    assert values["held-out pairs", "loss"][-1] == pytest.approx(math.log(2), abs=1e-4)
    assert values["samples", "kl"][-1] > 0.05


def test_run_directory(commands: Commands, tmp_path: Path) -> None:
    """On pairs of its own; the saved config reruns as it is, to the bit."""
    run = tmp_path / "run"
    small = [*SMALL, "--data.problems", "40", "--data.candidates", "4", "--task_config", "{max_terms: 3}"]
    outcome = commands.train(*small, "--max_samples", "10", "--output_dir", run)
    assert outcome.code == 0, outcome.err
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["loss"], config["beta"], config["reference"]) == ("dpo", 0.1, "initial")
    assert config["gamma_beta_ratio"] is None  # another loss's
    assert [record["step"] for record in metrics(run)] == [1, 2, 3, 4]
    sides = {record["data"] for record in read_records(run / "eval.jsonl") if record["metric"] == "logp"}
    assert sides == {"chosen", "rejected"}  # one chart of two lines: displacement
    report = (run / "report.html").read_text()
    assert "rejected" in report
    assert AutoModelForCausalLM.from_pretrained(run / "final").config.model_type == "qwen3"
    again = tmp_path / "again"
    assert commands.train("--config", run / "config.yaml", "--output_dir", again).code == 0
    assert weights(again) == weights(run)


@pytest.mark.parametrize("loss", ["kto", "aot"])
def test_the_token_budget_is_not_felt(
    commands: Commands, tiny: list[str | Path], data: Path, tmp_path: Path, loss: str
) -> None:
    """Micro-batches of one pair or of all; rows with a shared prompt or without. kto's z and
    aot's ranks are those of the whole step."""
    shared = [*tiny, "--loss", loss, "--data.path", data, "--max_steps", "2", "--lr", "1e-4"]
    shared += ["--beta", "0.1", "--warmup_steps", "0"]
    layouts = {
        "whole": [],
        "cut": ["--token_budget", "30"],
        "padded": ["--shared_prefix", "false", "--token_budget", "90"],
    }
    found = {}
    for name, extra in layouts.items():
        assert commands.train(*shared, *extra, "--output_dir", tmp_path / name).code == 0
        found[name] = metrics(tmp_path / name)
    for name in ("cut", "padded"):
        for a, b in zip(found["whole"], found[name], strict=True):
            for key in ("loss", "optim/grad_norm", "reward/margin", "logp/chosen", "logp/rejected", "length/chosen"):
                assert a[key] == pytest.approx(b[key], rel=2e-3, abs=1e-5), (name, key)
    assert found["whole"][1]["optim/grad_norm"] > 0


def test_labels_without_pairs(commands: Commands, tiny: list[str | Path], tmp_path: Path) -> None:
    """KTO from a file of prompt, completion, label."""
    data, run = write_rows(tmp_path / "labels.jsonl", labelled(60)), tmp_path / "run"
    more = ["--loss", "kto", "--data.path", data, "--lr", "1e-2", "--max_steps", "12"]
    outcome = commands.train(*tiny, *more, "--output_dir", run)
    assert outcome.code == 0, outcome.err
    assert evaluation(run)["held-out completions", "reward_accuracy"][-1] > 0.9
    assert "kto/z" in metrics(run)[0]


def test_online_pairs_follow_the_policy(commands: Commands, tmp_path: Path) -> None:
    """Fresh pairs every two steps, of other problems each time."""
    run = tmp_path / "run"
    more = ["--online_every", "2", "--data.problems", "40", "--data.candidates", "4", "--task_config", "{max_terms: 3}"]
    outcome = commands.train(*SMALL, *more, "--output_dir", run)
    assert outcome.code == 0, outcome.err
    found = metrics(run)
    assert all("time/sampling_s" in record for record in found[0::2])
    assert all("time/sampling_s" not in record for record in found[1::2])
    assert found[0]["logp/chosen"] != found[2]["logp/chosen"]


def test_lora_needs_no_second_model(
    commands: Commands, tiny: list[str | Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference is what is under the adapters: KL starts at 0, and no other model is ever loaded."""
    monkeypatch.setattr(
        "rlhf.run.session.Session.load_reference", lambda _, **__: pytest.fail("a second model was loaded")
    )
    run = tmp_path / "run"
    more = ["--lora_rank", "4", "--lr", "1e-2", "--data.path", data, "--max_steps", "8"]
    outcome = commands.train(*tiny, *more, "--output_dir", run)
    assert outcome.code == 0, outcome.err
    kl = evaluation(run)["samples", "kl"]
    assert kl[0] == pytest.approx(0, abs=1e-3)
    assert kl[-1] > 0.1
    assert metrics(run)[-1]["reward/margin"] > 0.01
    names = AutoModelForCausalLM.from_pretrained(run / "final").state_dict()
    assert not [name for name in names if "lora" in name]


def test_no_reference_where_none_is_needed(
    commands: Commands, tiny: list[str | Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "rlhf.run.session.Session.load_reference", lambda _, **__: pytest.fail("a reference was loaded")
    )
    run = tmp_path / "run"
    more = ["--loss", "simpo", "--reference", "none", "--data.path", data]
    outcome = commands.train(*tiny, *more, "--output_dir", run)
    assert outcome.code == 0, outcome.err
    assert ("samples", "kl") not in evaluation(run)


# ---------------------------------------------------------------------------------------------- the reference


def test_model_name_moves_the_reference(commands: Commands, data: Path, tmp_path: Path) -> None:
    """A policy compared with its own beginnings has no log-ratios in the first step, whichever model it is; nor is
    what was cached for one model taken for the other."""
    for seed in (0, 1):
        run, model = tmp_path / f"run{seed}", save_tiny(tmp_path / f"model{seed}", seed=seed)
        more = ["--data.path", data, "--task", "none", "--max_steps", "1", "--model_name", model]
        assert commands.train(*SMALL, *more, "--output_dir", run).code == 0
        (record,) = metrics(run)
        assert record["reward/chosen"] == pytest.approx(0, abs=1e-4)
        assert record["reward/rejected"] == pytest.approx(0, abs=1e-4)
        assert evaluation(run)["samples", "kl"][0] == pytest.approx(0, abs=1e-3)


def test_the_cache_is_used_and_never_for_something_else(
    commands: Commands, tiny: list[str | Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same data, another loss: no reference is scored. Other data, or another template: it is."""
    from direct_alignment.reference import Reference

    scored: list[int] = []
    original = Reference.initial_logp

    def count(self: Reference, groups) -> list[tuple[float, ...]]:
        scored.append(len(groups))
        return original(self, groups)

    monkeypatch.setattr(Reference, "initial_logp", count)

    def groups_scored(*arguments: str | Path) -> int:
        scored.clear()
        small = [*tiny, "--eval_samples", "0", "--max_steps", "1", "--overwrite"]
        outcome = commands.train(*small, *arguments, "--output_dir", tmp_path / "run")
        assert outcome.code == 0, outcome.err
        (record,) = metrics(tmp_path / "run")
        if "--max_length" not in arguments:  # the first step's log-ratios are 0 only for the right reference
            assert record["reward/margin"] == pytest.approx(0, abs=1e-4)
        return sum(scored)

    assert groups_scored("--data.path", data) == 60
    assert groups_scored("--data.path", data, "--loss", "ipo") == 0
    assert groups_scored("--data.path", write_rows(tmp_path / "more.jsonl", pairs(61)[1:])) > 0
    assert groups_scored("--data.path", data, "--system_prompt", "Shout.") == 60
    with_template = save_tiny(tmp_path / "template")
    tokenizer = load_tokenizer(str(with_template))
    tokenizer.chat_template = str(tokenizer.chat_template) + "{# the same text, another template #}"
    tokenizer.save_pretrained(with_template)
    assert groups_scored("--data.path", data, "--model_name", with_template) == 60


def test_a_reference_that_moves(commands: Commands, tiny: list[str | Path], data: Path, tmp_path: Path) -> None:
    """Moved all the way after each step, it is the policy: log-ratios are 0 in every step. Moved every second step, in
    every second. Kept, never again."""
    small = [*tiny, "--data.path", data, "--lr", "1e-3", "--warmup_steps", "0"]
    all_the_way = ["--sync_reference_mix", "1.0"]
    margins = {}
    for every in (0, 1, 2):
        run = tmp_path / f"every{every}"
        moves = ["--sync_reference_every", str(every), *(all_the_way if every else [])]
        assert commands.train(*small, *moves, "--output_dir", run).code == 0
        margins[every] = [abs(record["reward/chosen"]) < 1e-4 for record in metrics(run)]
    assert margins == {
        0: [True, False, False, False],
        1: [True, True, True, True],
        2: [True, False, True, False],
    }


def test_mixing_is_a_weighted_mean() -> None:
    from types import SimpleNamespace

    from torch import nn

    from direct_alignment.reference import Reference

    own, policy = nn.Linear(2, 2), nn.Linear(2, 2)
    expected = 0.25 * policy.weight + 0.75 * own.weight
    it = SimpleNamespace(moving=own, policy=policy, every=3, mix=0.25)
    Reference.follow(it, 2)  # not yet
    Reference.follow(it, 3)
    torch.testing.assert_close(own.weight, expected)


def test_configs_are_complete() -> None:
    """Each file says its loss's published settings, and is named after it unless it shows a particular model."""
    for file in CONFIGS.glob("*.yaml"):
        content = yaml.safe_load(file.read_text())
        assert content["loss"] == file.stem or content["model_name"] in file.stem
        given = {key: content[key] for key in losses[content["loss"]].settings}
        assert given == losses[content["loss"]].settings
