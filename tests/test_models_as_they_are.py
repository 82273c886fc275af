"""The commands with models made on the spot: what a model cannot do is said before training, and nothing is left."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import SMALL, Commands, Outcome
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import direct_alignment.train
import reward_models.train_preference_rm

CHATML = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|close|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16}


class Trainers(Commands):
    def direct_alignment(self, *arguments: str | Path) -> Outcome:
        return self._call(direct_alignment.train.main, arguments)

    def reward_models(self, *arguments: str | Path) -> Outcome:
        return self._call(reward_models.train_preference_rm.main, arguments)


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Trainers:
    return Trainers(monkeypatch, capfd)


def tokenizer_of_bytes() -> PreTrainedTokenizerFast:
    """A base model's: its end-of-sequence token is not what its template ends turns with."""
    words = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(BPE(vocab=words, merges=[]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.add_special_tokens([AddedToken(s, special=True) for s in ("<|end|>", "<|turn|>", "<|close|>", "<|stop|>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|end|>", pad_token="<|end|>", chat_template=CHATML
    )


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """Of 64 learned positions."""
    tokenizer = tokenizer_of_bytes()
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=64, **ids)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "short")
    tokenizer.save_pretrained(tmp_path / "short")
    return tmp_path / "short"


def says(word: str, folder: Path) -> Path:
    """A model that says one token for ever; generation_config.json alone knows that it ends."""
    tokenizer = tokenizer_of_bytes()
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), num_key_value_heads=1, **SHAPE, **ids))
    with torch.no_grad():
        model.get_input_embeddings().weight[:] = torch.randn(32)
        for name, weight in model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                weight.zero_()
        state = model.base_model(torch.tensor([[5, 6]])).last_hidden_state[0, -1]
        model.lm_head.weight.zero_()
        model.lm_head.weight[tokenizer.convert_tokens_to_ids(word)] = state / (state @ state) * 30
    model.generation_config = GenerationConfig(eos_token_id=[tokenizer.convert_tokens_to_ids("<|stop|>")])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


ROWS = [{"prompt": f"What is {i}?", "completion": str(i)} for i in range(40)]
PAIRS = [{"prompt": f"What is {i}?", "chosen": str(i), "rejected": "x"} for i in range(60)]


def written(rows: list[dict[str, str]], file: Path) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_prompts_longer_than_the_model_reads_are_refused_before_training(train: Trainers, short: Path) -> None:
    run = short.parent / "run"
    outcome = train.policy_gradients(*SMALL, "--max_new_tokens", "32", "--model_name", short, "--output_dir", run)
    assert outcome.code == 2
    assert "tokens with max_new_tokens 32 takes" in outcome.err
    assert "(gpt2) reads 64 tokens at most" in outcome.err
    assert "Lower max_new_tokens" in outcome.err
    assert not run.exists()


def test_a_system_prompt_longer_than_the_model_reads_is_refused(train: Trainers, tmp_path: Path) -> None:
    """With rotary positions too, which compute something for any position."""
    run = tmp_path / "run"
    outcome = train.policy_gradients(*SMALL, "--system_prompt", "x" * 2000, "--output_dir", run)
    assert outcome.code == 2
    assert "(qwen3) reads 1024 tokens at most" in outcome.err
    assert not run.exists()


FAMILIES: dict[str, tuple[Callable[[Trainers], Callable[..., Outcome]], list[dict[str, str]]]] = {
    "instruction tuning": (lambda train: train.instruction_tuning, ROWS),
    "direct alignment": (lambda train: train.direct_alignment, PAIRS),
    "reward models": (lambda train: train.reward_models, PAIRS),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_max_length_that_the_model_cannot_read_is_refused(family: str, train: Trainers, short: Path) -> None:
    command, rows = FAMILIES[family]
    run, file = short.parent / "run", written(rows, short.parent / "rows.jsonl")
    outcome = command(train)(
        *("--profile", "laptop", "--data.path", file, "--model_name", short, "--max_length", "65", "--output_dir", run)
    )
    assert outcome.code == 2
    assert "max_length is 65, and the model (gpt2) reads 64 tokens at most" in outcome.err
    assert "--max_length 64" in outcome.err
    assert not run.exists()


def test_what_the_generation_config_ends_with_ends_a_completion(train: Trainers, tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = ("--model_name", says("<|stop|>", tmp_path / "model"), "--max_steps", "1", "--output_dir", run)
    assert train.policy_gradients(*SMALL, *more, "--quiet").code == 0
    (step,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert step["length/mean"] == 1
    assert step["length/truncated"] == 0
    assert json.loads((run / "final" / "generation_config.json").read_text())["eos_token_id"] == [256, 258, 259]


def test_a_tuned_model_is_saved_with_the_end_that_it_learned(train: Trainers, tmp_path: Path) -> None:
    """Turns end with <|close|>, which the base model did not know as an end."""
    run, file = tmp_path / "run", written(ROWS, tmp_path / "rows.jsonl")
    more = ("--model_name", says("a", tmp_path / "model"), "--max_steps", "1", "--output_dir", run)
    assert train.instruction_tuning("--profile", "laptop", "--batch_size", "4", "--data.path", file, *more).code == 0
    for name in ("generation_config.json", "config.json"):
        assert 258 in json.loads((run / "final" / name).read_text())["eos_token_id"]


def test_code_of_a_model_is_refused_before_anything_is_written(
    train: Trainers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on stdin"))
    folder, run = tmp_path / "model", tmp_path / "run"
    folder.mkdir()
    auto = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto}))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    outcome = train.policy_gradients(*SMALL, "--model_name", folder, "--output_dir", run)
    assert outcome.code == 2
    assert "needs Python code of its own, which is never run" in outcome.err
    assert not run.exists()
    assert not (tmp_path / "executed").exists()
