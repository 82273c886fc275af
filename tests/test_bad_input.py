"""Bad input: one clear message that names what is wrong and what to do, no traceback, nothing left behind."""

import errno
import json
from pathlib import Path

import pytest
import torch
from commands import SMALL, Commands
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf.run.tracking import Run


@pytest.fixture
def commands(monkeypatch, capfd) -> Commands:
    return Commands(monkeypatch, capfd)


@pytest.fixture
def not_a_model(tmp_path) -> Path:
    folder = tmp_path / "holiday_pictures"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--group_sizes", "8"], ["group_sizes", "group_size"]),
        (["--lr", "fast"], ["lr", "fast", "number"]),
        (["--lr", "-1"], ["lr", "-1", "a number > 0"]),
        (["--config", "policy_gradients/configs/grpoo.yaml"], ["grpoo.yaml", "grpo.yaml"]),
        (["--algorithm", "grop"], ["grop", "grpo"]),
        (["--task", "spel_backward"], ["spel_backward", "spell_backward"]),
        (["--task_config", "{max_word_length: 4}"], ["spell_backward", "max_word_length"]),
        (["--model_name", "nobody/no-such-model"], ["nobody/no-such-model", "embedded"]),
        (["--model_name", "./no/such/folder"], ["./no/such/folder"]),
        (["--group_size", "1"], ["group_size", "at least"]),
        (["--max_new_tokens", "0"], ["max_new_tokens", "0", "> 0"]),
        (["--algorithm", "reinforce", "--epochs_per_batch", "2"], ["reinforce", "no ratio"]),
        (["--algorithm", "reinforce", "--clip_low", "0.1"], ["clip_low", "grpo"]),
        (["--kl_coef", "0.1", "--kl_in", "loss", "--kl_estimator", "k1"], ["k1", "zero expected gradient"]),
        (["--prompts_per_step", "3", "--steps_per_batch", "2"], ["prompts_per_step", "3"]),
        (
            ["--eval_problems", "500", "--task", "chain_sum", "--task_config", "{max_terms: 2, max_digits: 1}"],
            ["only", "held-out problems"],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_refused_before_anything_is_written(commands, tmp_path, arguments, says):
    run = tmp_path / "run"
    outcome = commands.policy_gradients(*SMALL, "--output_dir", run, *arguments)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    for words in says:
        assert words in outcome.err
    assert not run.exists()


def test_yaml_number_without_a_dot_is_a_number(commands, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("algorithm: grpo\nlr: 5e-6\n")
    outcome = commands.policy_gradients("--config", config, "--show_config")
    assert outcome.code == 0
    assert "5e-06" in outcome.out or "5e-6" in outcome.out or "5.0e-06" in outcome.out


def test_folder_that_is_not_a_model(commands, tmp_path, not_a_model):
    outcome = commands.policy_gradients(*SMALL, "--output_dir", tmp_path / "run", "--model_name", not_a_model)
    assert (outcome.code, "holds no model" in outcome.err) == (2, True)
    assert not (tmp_path / "run").exists()


def test_run_directory_exists(commands, tmp_path):
    (tmp_path / "config.yaml").write_text("precious: true\n")
    outcome = commands.policy_gradients(*SMALL, "--output_dir", tmp_path)
    assert outcome.code == 2
    for words in ("exists already", "--resume", "--overwrite", "--output_dir"):
        assert words in outcome.err
    assert (tmp_path / "config.yaml").read_text() == "precious: true\n"


def test_overwrite_spares_what_is_no_run(commands, tmp_path):
    (tmp_path / "novel.odt").write_text("years of work")
    outcome = commands.policy_gradients(*SMALL, "--output_dir", tmp_path, "--overwrite")
    assert outcome.code == 2
    assert (tmp_path / "novel.odt").exists()


def test_resume_with_nothing_to_resume(commands, tmp_path):
    outcome = commands.policy_gradients(*SMALL, "--output_dir", tmp_path / "run", "--resume")
    assert (outcome.code, "no run in" in outcome.err) == (2, True)
    assert not (tmp_path / "run").exists()


def test_truncated_checkpoints(commands, tmp_path):
    """The newest damaged: the one before it is taken, with a word about it. All damaged: refused."""
    run = tmp_path / "run"
    short = [*SMALL, "--max_steps", "2", "--max_new_tokens", "8", "--output_dir", run]
    assert commands.policy_gradients(*short, "--quiet").code == 0
    weights = [run / "checkpoints" / f"step_{n}" / "model.safetensors" for n in (1, 2)]
    weights[1].write_bytes(weights[1].read_bytes()[:1000])
    again = commands.policy_gradients(*short, "--resume")
    assert again.code == 0
    assert "step_2 is damaged" in again.out
    assert "resumed at step 1" in again.out
    for file in (run / "checkpoints").glob("step_*/model.safetensors"):
        file.write_bytes(file.read_bytes()[:1000])
    refused = commands.policy_gradients(*short, "--resume")
    assert refused.code == 2
    assert "damaged" in refused.err
    assert "--overwrite" in refused.err


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_directory_that_cannot_be_written(commands, tmp_path, monkeypatch, number):
    def refuse(path, *_args, **_kwargs):
        raise OSError(number, "no", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    outcome = commands.policy_gradients(*SMALL, "--output_dir", tmp_path / "run")
    assert outcome.code != 0
    assert str(tmp_path / "run") in outcome.err
    assert "--output_dir" in outcome.err
    assert "Traceback" not in outcome.err


def test_full_disk(commands, tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Run, "append", full)
    outcome = commands.policy_gradients(*SMALL, "--output_dir", tmp_path / "run")
    assert outcome.code != 0
    assert "disk is full" in outcome.err
    assert not (tmp_path / "run").exists()


def test_loss_that_is_not_finite_stops_the_run_and_keeps_the_batch(commands, tmp_path, monkeypatch):
    from rlhf.logprobs import Scorer

    forward = Scorer.forward

    def broken(self, rows, temperature=1.0):
        scores = forward(self, rows, temperature)
        return scores._replace(logp=scores.logp * float("nan")) if torch.is_grad_enabled() else scores

    monkeypatch.setattr(Scorer, "forward", broken)
    outcome = commands.policy_gradients(*SMALL, "--max_new_tokens", "8", "--output_dir", tmp_path / "run")
    assert outcome.code == 2
    assert "nan" in outcome.err
    assert "not_finite.pt" in outcome.err
    saved = torch.load(tmp_path / "run" / "not_finite.pt", weights_only=False)
    assert saved["rows"].labels.numel() > 0


def test_wandb_without_key_or_with_a_wrong_one_never_stops_a_run(commands, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_PROJECT", "rlhf-lab")
    short = [*SMALL, "--max_steps", "1", "--max_new_tokens", "8"]
    without = commands.policy_gradients(*short, "--output_dir", tmp_path / "without")
    assert without.code == 0
    assert without.out.count("no WANDB_API_KEY") == 1
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there: the network is down
    import wandb

    settings = wandb.Settings
    monkeypatch.setattr("wandb.Settings", lambda **named: settings(**named | {"init_timeout": 1}))
    wrong = commands.policy_gradients(*short, "--output_dir", tmp_path / "wrong")
    assert wrong.code == 0
    assert "going on without them" in wrong.out
    assert (tmp_path / "wrong" / "final" / "config.json").exists()


def test_tokenizer_without_chat_template(commands, tmp_path):
    from rlhf.embedded.make import character_tokenizer

    folder = tmp_path / "base"
    tokenizer = character_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    outcome = commands.policy_gradients(*SMALL, "--output_dir", tmp_path / "run", "--model_name", folder)
    assert (outcome.code, "chat template" in outcome.err) == (2, True)
    assert not (tmp_path / "run").exists()


def test_sft_rows_that_cannot_be_used(commands, tmp_path):
    good = {"prompt": "2+2?", "completion": "4"}
    data = tmp_path / "d.jsonl"
    sft = ["--profile", "laptop", "--data.path", data, "--output_dir", tmp_path / "run"]
    data.write_text("".join(json.dumps(row) + "\n" for row in [good] * 9 + [{"prompt": "2+2?", "completion": ""}]))
    outcome = commands.instruction_tuning(*sft)
    assert outcome.code == 2
    for words in ("1 of 10 rows", "line 10", "empty", "5 %"):
        assert words in outcome.err
    data.write_text(json.dumps(good) + "\n{broken\n")
    outcome = commands.instruction_tuning(*sft)
    assert outcome.code == 2
    assert "line 2 is not JSON" in outcome.err
    assert not (tmp_path / "run").exists()
