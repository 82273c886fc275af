"""What a finished run leaves: the model in its own precision, LoRA's adapter, and a card that says what ran."""

import json
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import instruction_tuning.train as sft
import reward_models.train_preference_rm as rm
from rlhf.config.command import read_command
from rlhf.embedded.make import character_tokenizer, new_model
from rlhf.models.loading import find_model
from rlhf.models.saving import own_dtype
from rlhf.models.tokenizer import load_tokenizer
from rlhf.run.directory import why_not_ours
from rlhf.run.model_card import base_on_the_hub, model_card
from rlhf.text.chat import encode_conversation

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 2, "num_key_value_heads": 1}
TOKENS = torch.tensor([[5, 6, 7, 8, 9]])


def tiny(folder: Path, dtype: torch.dtype) -> Path:
    torch.manual_seed(0)
    new_model(**SIZES).to(dtype).save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    return folder


def write(file: Path, rows: list[dict[str, object]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """Of a model that is stored in bf16: SFT with LoRA, and a preference model with LoRA, two steps each."""
    folder = tmp_path_factory.mktemp("final")
    words = [f"{a}{b}" for a in "abcd" for b in "efgh"]
    asked = [{"role": "user", "content": f"say {word}"} for word in words]
    talks = [{"messages": [a, {"role": "assistant", "content": w}]} for a, w in zip(asked, words, strict=True)]
    pairs = [{"prompt": [a], "chosen": w, "rejected": "no"} for a, w in zip(asked, words, strict=True)]
    shared = [
        *("--model_name", str(tiny(folder / "model", torch.bfloat16)), "--device", "cpu", "--precision", "fp32"),
        *("--batch_size", "4", "--lr", "1", "--lora_rank", "2", "--lora_alpha", "3", "--profile", "laptop"),
        *("--max_steps", "2", "--quiet", "--data.held_out", "2"),
    ]
    kinds = {
        "sft": (sft, sft.InstructionTuningConfig, talks, ["--lora_targets", "[q_proj, up_proj]"]),
        "preference": (rm, rm.PreferenceConfig, pairs, ["--data.validation", "2", "--extra_layers", "0"]),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlhf.run.session.write_report", lambda run: run)
        for name, (module, config, rows, more) in kinds.items():
            data = write(folder / f"{name}.jsonl", rows)
            argv = [*shared, *more, "--data.path", str(data), "--output_dir", str(folder / name)]
            prog = f"python -m {module.__name__}"
            module.train(read_command(config, argv, prog=prog, description="", default_config=module.DEFAULT))
        yield folder


def stored(folder: Path) -> dict[str, torch.dtype]:
    return {name: weight.dtype for name, weight in load_file(folder / "model.safetensors").items()}


def test_final_is_in_the_models_own_precision(runs: Path) -> None:
    """bf16, as the model that was trained, which transformers and engines then load so; checkpoints are fp32."""
    assert {*stored(runs / "sft" / "final").values()} == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(runs / "sft" / "final").dtype == torch.bfloat16
    (checkpoint,) = (runs / "sft" / "checkpoints").glob("step_2/model.safetensors")
    assert {weight.dtype for weight in load_file(checkpoint).values()} == {torch.float32}


def test_the_head_of_a_reward_model_stays_fp32(runs: Path) -> None:
    found = stored(runs / "preference" / "final")
    assert {name for name, dtype in found.items() if dtype == torch.float32} == {"score.weight"}
    assert AutoModelForSequenceClassification.from_pretrained(runs / "preference" / "final").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("named", "held", "own"),
    [
        ("bfloat16", torch.float32, torch.bfloat16),  # what config.json says counts: transformers goes by it
        ("float32", torch.bfloat16, torch.float32),
        (None, torch.float16, torch.float16),
        (None, torch.float32, torch.float32),
    ],
)
def test_a_models_own_precision(tmp_path: Path, named: str | None, held: torch.dtype, own: torch.dtype) -> None:
    model = tiny(tmp_path / "model", held)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps({**config, "dtype": named} if named else {k: v for k, v in config.items() if k != "dtype"})
    )
    assert own_dtype(find_model(str(model))) == own


@pytest.mark.parametrize("kind", ["sft", "preference"])
def test_the_adapter_on_its_base_is_the_merged_model(runs: Path, kind: str) -> None:
    """Loaded by PEFT alone. Merged, and rounded to bf16, it differs by that rounding; the base itself is far away."""
    auto = {"sft": AutoModelForCausalLM, "preference": AutoModelForSequenceClassification}[kind]
    more = {"num_labels": 1} if kind == "preference" else {}
    merged = auto.from_pretrained(runs / kind / "final", dtype=torch.float32)
    base = auto.from_pretrained(runs / "model", dtype=torch.float32, **more)
    base.config.pad_token_id = merged.config.pad_token_id
    with torch.no_grad():
        before = base(TOKENS).logits
        adapted = PeftModel.from_pretrained(base, runs / kind / "adapter")
        found, expected = adapted(TOKENS).logits, merged(TOKENS).logits
    learned, rounded = (float((logits - expected).abs().max()) for logits in (before, found))
    assert rounded < 0.05 * learned
    assert learned > 0.1
    settings = json.loads((runs / kind / "adapter" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (2, 3)
    assert settings["base_model_name_or_path"] == str(runs / "model")
    if kind == "sft":
        assert {*settings["target_modules"]} == {"q_proj", "up_proj"}


def test_a_run_with_its_adapter_is_a_run(runs: Path) -> None:
    """So --overwrite may replace it."""
    assert why_not_ours(runs / "sft") is None
    assert why_not_ours(runs / "preference") is None


def test_the_card_says_what_was_run(runs: Path) -> None:
    for kind, pipeline in (("sft", "text-generation"), ("preference", "text-classification")):
        text = (runs / kind / "final" / "README.md").read_text()
        _, front, body = text.split("---\n", 2)
        told = yaml.safe_load(front)
        assert told["pipeline_tag"] == pipeline
        assert told["library_name"] == "transformers"
        assert "rlhf-lab" in told["tags"]
        assert not {"license", "base_model", "datasets"} & told.keys(), "a folder and a file are not on the Hub"
        evaluations = [json.loads(line) for line in (runs / kind / "eval.jsonl").read_text().splitlines()]
        for word in (str(runs / "model"), "commit", "| learning rate | 1.0 |", *{it["metric"] for it in evaluations}):
            assert word in body, word
        (usage,) = [part.split("```")[0] for part in body.split("```python\n")[1:]]
        compile(usage, "card", "exec")


def test_the_usage_on_a_card_runs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("sft", "preference"):
        text = (runs / kind / "final" / "README.md").read_text()
        usage = text.split("```python\n")[1].split("```")[0].replace("PATH_OR_HUB_ID", str(runs / kind / "final"))
        exec(compile(usage.replace("max_new_tokens=256", "max_new_tokens=3"), "card", "exec"), {})
        assert capsys.readouterr().out


def test_the_card_of_a_reward_model_scores_at_the_end_of_the_answer(runs: Path, tmp_path: Path) -> None:
    """Where it was trained: many templates have a line break behind the end token."""
    final = shutil.copytree(runs / "preference" / "final", tmp_path / "final")
    template = final / "chat_template.jinja"
    template.write_text(template.read_text() + "{% if not add_generation_prompt %}{{ '\\n' }}{% endif %}")
    usage = (final / "README.md").read_text().split("```python\n")[1].split("```")[0]
    told: dict[str, Any] = {}
    exec(compile(usage.replace("PATH_OR_HUB_ID", str(final)), "card", "exec"), told)
    wanted = encode_conversation(load_tokenizer(str(final)), told["messages"])
    assert told["conversation"]["input_ids"][0].tolist() == wanted.prompt + wanted.completion


def test_what_the_hub_reads(tmp_path: Path) -> None:
    """Base model and data by their ids, the base through a chain of runs; a table of results before and after."""
    for name, base in (("sft", "Qwen/Qwen3-0.6B-Base"), ("grpo", str(tmp_path / "sft"))):
        run = tmp_path / name
        run.mkdir()
        config = {"model_name": base, "max_steps": 5, "algorithm": "grpo", "task_config": {"path": "openai/gsm8k:main"}}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        provenance = {"title": "GRPO on x", "trainer": "policy_gradients.train", "command": "python -m x --lr 1 | tee"}
        (run / "provenance.json").write_text(json.dumps(provenance | {"git_commit": "a" * 40, "version": "9.9"}))
    record = {"data": "a|b", "metric": "accuracy", "n": 7}
    rows = [record | {"step": 0, "value": 0.25, "low": 0.1, "high": 0.4}, record | {"step": 5, "value": 0.5}]
    (tmp_path / "grpo" / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = model_card(tmp_path / "grpo", architecture="Qwen3ForCausalLM")
    told = yaml.safe_load(text.split("---\n")[1])
    assert told["base_model"] == "Qwen/Qwen3-0.6B-Base"
    assert told["datasets"] == ["openai/gsm8k"]
    assert told["tags"] == ["rlhf-lab", "policy-gradients", "grpo"]
    assert "| a\\|b | accuracy | 0.250 [0.100, 0.400] | 0.500 | 7 |" in text
    assert "python -m x --lr 1 | tee" in text
    assert "RLHF Lab 9.9, commit aaaaaaaaaaaa" in text
    assert base_on_the_hub("embedded") is None
    assert base_on_the_hub("smollm2-135m") == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_tokenizer_and_chat_template_are_in_final(runs: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(runs / "sft" / "final")
    assert tokenizer.chat_template == character_tokenizer().chat_template


def test_a_finished_run_is_saved_again_in_another_precision(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its last checkpoint, which is fp32: what bf16 rounded away is there."""
    monkeypatch.setattr("rlhf.run.session.write_report", lambda run: run)
    rounded = load_file(runs / "sft" / "final" / "model.safetensors")
    argv = ["--resume", "--output_dir", str(runs / "sft"), "--save_dtype", "fp32", "--quiet"]
    sft.train(sft.read(argv))
    again = load_file(runs / "sft" / "final" / "model.safetensors")
    assert {weight.dtype for weight in again.values()} == {torch.float32}
    assert all(torch.equal(again[name].bfloat16(), weight) for name, weight in rounded.items())
    assert not all(torch.equal(again[name], weight.float()) for name, weight in rounded.items())
