"""The commands: training, evaluation, scoring, sampling; what they leave behind; bad input."""

import json
from pathlib import Path

import commands as commands_of_all
import numpy as np
import pytest
import shape_checks
import torch
from rm_commands import FEW, MODULES, SMALL
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from benchmarks.kill_and_resume import start, wait, warm_up
from rlhf.models.reward_model import RewardModel
from rlhf.run.tracking import read_records

ROOT = Path(__file__).parents[2]
KINDS = list(MODULES)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("profile", ["laptop", "gpu"])
def test_configs_are_valid(commands, kind, profile):
    outcome = commands.train(kind, "--profile", profile, "--show_config")
    assert outcome.code == 0, outcome.err


@pytest.fixture(scope="module", params=KINDS)
def run(request, tmp_path_factory) -> tuple[str, Path]:
    """A finished run of each kind, in a process of its own."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    arguments = [*SMALL, "--output_dir", str(folder)]
    log = folder.parent / "log"
    with pytest.MonkeyPatch.context() as patch, shape_checks.switched_off():
        patch.setattr("rlhf.statistics.RESAMPLES", FEW)
        warm_up()
        assert wait(start(f"reward_models.{MODULES[request.param]}", arguments, log)) == 0, log.read_text()
    return request.param, folder


def test_run_directory(run):
    kind, folder = run
    metrics = read_records(folder / "metrics.jsonl")
    assert [record["step"] for record in metrics] == [1, 2, 3, 4]
    described = json.loads((folder / "provenance.json").read_text())["metrics"]
    assert set(metrics[-1]) - {"step", "wall_s"} <= set(described)
    assert metrics[-1]["rows/tokens_saved"] > 0.1
    evaluations = read_records(folder / "eval.jsonl")
    headline = {"preference": "accuracy", "outcome": "auc", "process": "macro_f1"}[kind]
    found = {(r["data"], r["metric"], r["step"]) for r in evaluations}
    assert {("held-out", headline, 0), ("held-out", headline, 4), ("validation", headline, 2)} <= found
    assert {("held-out", f"{headline}_length", 0), ("held-out", f"{headline}_bag_of_tokens", 0)} <= found
    assert all(r["low"] <= r["value"] <= r["high"] for r in evaluations if "low" in r)
    assert read_records(folder / "samples.jsonl")
    for page in ("report.html", "evaluation.html"):
        assert "<html" in (folder / page).read_text()
    assert not (folder / "best.safetensors").exists()


def test_saved_models_serve(run, commands, tmp_path):
    """Plain transformers and `RewardModel` give one number; `score` writes it; `evaluate` repeats the run's own."""
    kind, folder = run
    prompt = [{"role": "user", "content": "Calculate step by step: 1+2+3"}]
    answers = ["<think>1+2=3\n3+3\n3+3=6</think><answer>6</answer>", "7"]
    (rewards,) = RewardModel([str(folder)], device="cpu").score([(prompt, answers)])
    tokenizer = AutoTokenizer.from_pretrained(folder / "final")
    if kind == "process":
        plain = AutoModelForTokenClassification.from_pretrained(folder / "final").eval()
        text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        steps = ["1+2=3", "3+3", "3+3=6", "<answer>6</answer>"]
        ids = tokenizer(text + "\n".join(steps) + "\n", add_special_tokens=False, return_tensors="pt")
        ends = (ids["input_ids"][0] == tokenizer.convert_tokens_to_ids("\n")).nonzero().flatten()
        with torch.no_grad():
            fine = 1 - plain(**ids).logits[0, ends - 1].softmax(-1)[:, 0]  # the laptop's model judges a step at its end
        assert len(ends) == 4
        assert rewards[0] == pytest.approx(float(fine.min()), abs=1e-4)
        assert plain.config.id2label == {0: "wrong", 1: "neutral", 2: "right"}
    else:
        plain = AutoModelForSequenceClassification.from_pretrained(folder / "final").eval()
        conversations = [[*prompt, {"role": "assistant", "content": answer}] for answer in answers]
        texts = [tokenizer.apply_chat_template(c, tokenize=False) for c in conversations]
        rows = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
        with torch.no_grad():
            assert rewards == pytest.approx(plain(**rows).logits[:, 0].tolist(), abs=1e-4)

    data, output = tmp_path / "answers.jsonl", tmp_path / "scored.jsonl"
    row = {"prompt": prompt, "completions": answers, "kept": 1}
    data.write_text(json.dumps(row) + "\n")
    outcome = commands.score(folder, "--data", data, "--output", output, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    (scored,) = read_records(output)
    assert scored == {**row, "rewards": pytest.approx(rewards, abs=1e-5)}

    outcome = commands.evaluate(folder, "--output", tmp_path / "evaluation")
    assert outcome.code == 0, outcome.err
    last = {r["metric"]: r["value"] for r in read_records(folder / "eval.jsonl") if r["data"] == "held-out"}
    repeated = {r["metric"]: r["value"] for r in read_records(tmp_path / "evaluation" / "evaluation.jsonl")}
    assert repeated == pytest.approx(last, abs=1e-4)


def test_a_policy_is_trained_on_its_rewards(run, monkeypatch, capfd, tmp_path):
    """What is paid is what the reward model says of the completions; the verifier still measures."""
    kind, folder = run
    small = [
        "--max_steps",
        "1",
        "--prompts_per_step",
        "2",
        "--group_size",
        "2",
        "--eval_problems",
        "2",
        "--eval_every",
        "0",
    ]
    task = ["--task", "step_arithmetic", "--profile", "laptop", "--config", ROOT / "policy_gradients/configs/grpo.yaml"]
    run_it = commands_of_all.Commands(monkeypatch, capfd).policy_gradients
    outcome = run_it(
        *task, *small, "--reward_model", folder, "--output_dir", tmp_path / "policy", "--sample_every", "1"
    )
    assert outcome.code == 0, outcome.err
    (metrics,) = read_records(tmp_path / "policy" / "metrics.jsonl")
    assert metrics["reward/mean"] == pytest.approx(metrics["reward/model"])
    samples = read_records(tmp_path / "policy" / "samples.jsonl")
    model = RewardModel([str(folder)], device="cpu")
    for sample in samples:
        prompt = [{"role": "user", "content": sample["prompt"]}]
        assert sample["total"] == pytest.approx(model.score([(prompt, [sample["completion"]])])[0][0], abs=1e-4)
    plan = run_it(*task, "--reward_model", folder, "--plan")
    assert "reward model" in plan.out, plan.err
    if kind == "process":
        maxrl = [*task[:-1], ROOT / "policy_gradients/configs/maxrl.yaml", "--reward_model", folder]
        assert "rewards that are 1 or 0" in run_it(*maxrl, "--output_dir", tmp_path / "other").err
        outcome = run_it(*task, *small, "--reward_model", "embedded", "--output_dir", tmp_path / "other")
        assert "no reward model" in outcome.err
        assert not (tmp_path / "other").exists()


def test_an_ensemble(run, tmp_path):
    """Two members on one scale. Of one member twice: the mean is its scaled score, and so is the least."""
    _, folder = run
    conversation = ([{"role": "user", "content": "1+2?"}], ["3", "4", "5"])
    (alone,) = RewardModel([str(folder)], device="cpu").score([conversation])
    means, least = (
        RewardModel([str(folder)] * 2, combine=how, device="cpu").score([conversation])[0] for how in ("mean", "min")
    )
    assert means == pytest.approx(least, abs=1e-6)
    assert np.argsort(means).tolist() == np.argsort(alone).tolist()


def test_subsets(run, commands, tmp_path):
    """RewardBench's columns: a score a subset, and their mean."""
    kind, folder = run
    if kind != "preference":
        pytest.skip("pairs")
    rows = [{"prompt": f"{i}?", "chosen": "1", "rejected": "2", "subset": "one" if i < 6 else "two"} for i in range(9)]
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert commands.evaluate(folder, "--data", data, "--output", tmp_path).code == 0
    records = {(r["data"], r["metric"]): r for r in read_records(tmp_path / "evaluation.jsonl")}
    one, two = (records[f"d.jsonl: {name}", "accuracy"] for name in ("one", "two"))
    assert (one["n"], two["n"]) == (6, 3)
    mean = records["d.jsonl", "accuracy_mean_of_subsets"]["value"]
    assert mean == pytest.approx((one["value"] + two["value"]) / 2)


def test_sampled_candidates_train_an_outcome_model(commands, tmp_path):
    file = tmp_path / "candidates.jsonl"
    outcome = commands.sample("--problems", "60", "--candidates", "4", "--output", file)
    assert outcome.code == 0, outcome.err
    assert {"question", "answer", "completions", "labels"} <= set(read_records(file)[0])
    small = [
        "--max_steps",
        "1",
        "--batch_size",
        "8",
        "--data.held_out",
        "10",
        "--data.validation",
        "5",
        "--samples",
        "0",
    ]
    outcome = commands.train(
        "outcome", "--profile", "laptop", *small, "--data.path", file, "--output_dir", tmp_path / "run"
    )
    assert outcome.code == 0, outcome.err
    assert "held-out auc" in outcome.out


def test_early_stopping_keeps_the_best(commands, tmp_path):
    """A learning rate that ruins the model: validation gets worse, the run stops, and the first weights come back."""
    arguments = [*SMALL, "--max_steps", "12", "--lr", "0.3", "--eval_every", "1", "--patience", "2", "--seed", "3"]
    outcome = commands.train("outcome", *arguments, "--output_dir", tmp_path / "run", "--lr_schedule", "constant")
    assert outcome.code == 0, outcome.err
    losses = [r["value"] for r in read_records(tmp_path / "run" / "eval.jsonl") if r["metric"] == "loss"]
    best = losses.index(min(losses)) + 1
    assert len(losses) == best + 2 < 12
    assert f"the weights of step {best} are kept" in outcome.out
    before = f"{losses[0]:.3f} -> " if best > 1 else ""
    assert f"validation loss: {before}{min(losses):.3f}, n = 10" in outcome.out, "of the weights that are kept"


@pytest.mark.parametrize(
    ("kind", "rows", "says"),
    [
        ("preference", [{"prompt": "q", "chosen": "a"}], ["line 1", "wanted chosen and rejected"]),
        ("preference", [{"prompt": "q", "chosen": "a", "rejected": "a"}], ["line 1", "identical"]),
        ("preference", [{"prompt": f"q{i}", "chosen": "a", "rejected": " "} for i in range(9)], ["9 of 9", "empty"]),
        ("preference", [{"prompt": f"q{i}", "chosen": "a" * 99, "rejected": "b"} for i in range(40)], ["max_length"]),
        ("preference", [{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(40)], ["margin_scale"]),
        ("outcome", [{"question": "q", "solution": "a", "label": 7}], ["line 1", "true or false"]),
        ("outcome", [{"question": "q", "solution": "a", "label": 1}], ["too few"]),
        ("process", [{"prompt": "q", "completions": ["a"], "labels": [4]}], ["line 1", "-1, 0 or 1"]),
    ],
)  # fmt: skip
def test_bad_data_trains_nothing(commands, tmp_path, kind, rows, says):
    data, folder = tmp_path / "d.jsonl", tmp_path / "run"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    extra = ["--margin_scale", "1"] if "margin_scale" in says else []
    arguments = ["--profile", "laptop", "--data.path", data, "--max_length", "64", "--output_dir", folder, *extra]
    outcome = commands.train(kind, *arguments)
    assert outcome.code == 2, outcome.out + outcome.err
    for word in says:
        assert word in outcome.err
    assert not folder.exists()


def test_a_finished_run_is_finished_again_and_goes_on(commands, tmp_path):
    """Its best weights are those of its checkpoint; final evaluation and samples stand in its logs once."""
    run = tmp_path / "run"
    chosen = ["--eval_every", "1", "--patience", "3", "--lr", "0.05", "--max_steps", "2", "--output_dir", run]
    assert commands.train("preference", *SMALL, *chosen).code == 0
    before = {name: (run / name).read_bytes() for name in ("eval.jsonl", "samples.jsonl")}
    weights = (run / "final" / "model.safetensors").read_bytes()
    again = commands.train("preference", "--output_dir", run, "--resume")
    assert again.code == 0, again.err
    assert {name: (run / name).read_bytes() for name in before} == before
    assert (run / "final" / "model.safetensors").read_bytes() == weights
    longer = commands.train("preference", "--output_dir", run, "--resume", "--max_steps", "3")
    assert longer.code == 0, longer.err
    steps = [record["step"] for record in read_records(run / "eval.jsonl") if record["metric"] == "loss"]
    assert steps == [1, 2, 3]
    assert not (run / "best.safetensors").exists()
    other = commands.train("outcome", "--output_dir", run, "--resume")
    assert (other.code, "is a run of reward_models.train_preference_rm" in other.err) == (2, True)
