"""The commands themselves: help, plan, profiles, run directory, chaining models."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import SMALL, Commands, cpu_seconds_below
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).parent.parent


@pytest.fixture
def commands(monkeypatch, capfd) -> Commands:
    return Commands(monkeypatch, capfd)


MODULES = [
    *("policy_gradients.train", "policy_gradients.compare", "instruction_tuning.train", "distillation.train"),
    *("rlhf.report", "rlhf.publish", "rlhf.judges"),
    *(
        f"reward_models.{name}"
        for name in ("train_preference_rm", "train_orm", "train_prm", "evaluate", "score", "sample")
    ),
    *(f"direct_alignment.{name}" for name in ("train", "compare", "sample_pairs")),
    *("rlhf.chat", "rlhf.generate", "rlhf.evaluate"),
    *(f"rejection_sampling.{name}" for name in ("train", "compare", "best_of_n")),
    *("pipeline.run", "claims"),
]


@pytest.mark.parametrize("module", MODULES)
def test_help_answers_at_once(module):
    """In under a second; the bound leaves room for a slow processor."""
    with cpu_seconds_below(2):
        done = subprocess.run(
            [sys.executable, "-m", module, "--help"], capture_output=True, text=True, cwd=ROOT, check=True
        )
    assert "usage" in done.stdout


def test_help_does_not_load_torch():
    """Nor do the claims, which `--list` and `--plan` read."""
    modules = ", ".join(["sys", *MODULES, "claims.__main__"])
    code = f"import {modules}; claims.__main__.main(['--list']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_plan_loads_nothing_and_writes_nothing(commands, tmp_path):
    outcome = commands.policy_gradients(*SMALL, "--output_dir", tmp_path / "run", "--plan", "--kl_coef", "0.1")
    assert outcome.code == 0
    for words in ("weights", "optimizer", "reference model", "key-value cache", "at most"):
        assert words in outcome.out
    assert not (tmp_path / "run").exists()


def test_run_directory(commands, tmp_path):
    """Every file of the contract is there and says what it should; the saved config reruns as it is."""
    run = tmp_path / "run"
    arguments = [*SMALL, "--kl_coef", "0.05", "--epochs_per_batch", "2", "--steps_per_batch", "2", "--tensorboard"]
    arguments += ["--task_config", "{min_word_len: 3, max_word_len: 4}", "--max_new_tokens", "26"]
    outcome = commands.policy_gradients(*arguments, "--output_dir", run)
    assert outcome.code == 0, outcome.err
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["algorithm"], config["clip_low"], config["aggregation"]) == ("grpo", 0.2, "sequence_mean")
    provenance = json.loads((run / "provenance.json").read_text())
    assert {"git_commit", "versions", "host", "seed", "command", "data_fingerprint"} <= set(provenance)
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    assert [record["step"] for record in metrics] == [1, 2, 3, 4]
    described = set(provenance["metrics"])
    assert set(metrics[-1]) - {"step", "wall_s"} <= described
    evaluations = [json.loads(line) for line in (run / "eval.jsonl").open()]
    assert {"step", "data", "metric", "value", "n", "low", "high"} <= set(evaluations[0])
    assert all(e["low"] <= e["value"] <= e["high"] for e in evaluations)
    assert "<html" in (run / "report.html").read_text()
    assert AutoModelForCausalLM.from_pretrained(run / "final").config.model_type == "qwen3"
    again = tmp_path / "again"
    assert commands.policy_gradients("--config", run / "config.yaml", "--output_dir", again).code == 0
    same = (run / "final" / "model.safetensors").read_bytes() == (again / "final" / "model.safetensors").read_bytes()
    assert same, "the same config and seed gave other weights"
    assert list(run.rglob("events.out.tfevents*"))


def test_models_feed_on(commands, tmp_path):
    """SFT from nothing -> GRPO on the run directory; with LoRA, the final model is a plain one again."""
    sft = tmp_path / "sft"
    small = ["--max_steps", "2", "--batch_size", "4", "--data.held_out", "4", "--eval_max_new_tokens", "8"]
    scratch = ["--scratch.hidden_size", "32", "--scratch.num_hidden_layers", "2"]
    outcome = commands.instruction_tuning(*small, *scratch, "--profile", "laptop", "--output_dir", sft)
    assert outcome.code == 0, outcome.err
    run = tmp_path / "grpo"
    short = [*SMALL, "--max_steps", "1", "--max_new_tokens", "16"]
    outcome = commands.policy_gradients(*short, "--model_name", sft, "--lora_rank", "2", "--output_dir", run)
    assert outcome.code == 0, outcome.err
    weights = AutoModelForCausalLM.from_pretrained(run / "final").state_dict()
    assert not [name for name in weights if "lora" in name]


def test_sft_learns_rows_of_a_file(commands, tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": f"say {w}"}, {"role": "assistant", "content": w}]} for w in "abcd" * 8
    ]
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--profile", "laptop", "--data.path", data, "--max_steps", "30", "--batch_size", "8", "--lr", "2e-3"]
    for extra in ([], ["--pack_to", "64"]):
        run = tmp_path / f"run{len(extra)}"
        outcome = commands.instruction_tuning(*arguments, *extra, "--output_dir", run, "--eval_max_new_tokens", "8")
        assert outcome.code == 0, outcome.err
        assert "nothing is held out" in outcome.out.replace("\n", " "), "each question is a quarter of the rows"
        losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").open()]
        assert losses[-1] < 0.1 < losses[0]


@pytest.mark.parametrize("given", [[], ["--fsdp", "true", "--memory_gb", "16"]])
def test_what_acts_on_nothing_here_is_said(commands, tmp_path, given):
    """One process divides nothing, and a limit of a GPU's memory limits no run on a CPU."""
    arguments = ["--profile", "laptop", "--device", "cpu", "--data.held_out", "2", *given]
    short = ["--max_steps", "1", "--batch_size", "2", "--eval_max_new_tokens", "2"]
    outcome = commands.instruction_tuning(*arguments, *short, "--output_dir", tmp_path / "r")
    assert outcome.code == 0, outcome.err
    said = outcome.out + outcome.err
    for what in ("fsdp divides nothing among one process", "memory_gb limits a run on a GPU alone"):
        assert (what in said) == bool(given)


@pytest.mark.parametrize("kernels", [True, False])
def test_slow_bf16_is_named(commands, tmp_path, monkeypatch, kernels):
    """On a processor without kernels for it a run would seem to hang."""
    monkeypatch.setattr("rlhf.run.opening.has_bf16_kernels", lambda: kernels)
    arguments = ["--profile", "laptop", "--device", "cpu", "--precision", "bf16", "--data.held_out", "2"]
    short = ["--max_steps", "1", "--batch_size", "2", "--eval_max_new_tokens", "2"]
    outcome = commands.instruction_tuning(*arguments, *short, "--output_dir", tmp_path / "r")
    assert outcome.code == 0, outcome.err
    assert ("--precision fp32 is ten times as fast" in outcome.out + outcome.err) != kernels
