"""Models are read as they are: what is missing, renamed, of another size, damaged or foreign is refused by name."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BloomConfig,
    FalconConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from rlhf.embedded.make import character_tokenizer
from rlhf.errors import UserError
from rlhf.models.architecture import longest_input
from rlhf.models.heads import load_trained, load_with_head
from rlhf.models.loading import read_config
from rlhf.models.policy import find_model, load, load_policy, load_tokenizer

WORDS = len(character_tokenizer())
Weights = dict[str, torch.Tensor]
LOADERS: dict[str, Callable[[str], object]] = {"policy": load_policy, "reward model": load_with_head}


def save(model: nn.Module, folder: Path) -> Path:
    model.save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny_model("llama", vocabulary=WORDS), tmp_path_factory.mktemp("whole") / "model")


@pytest.fixture
def broken(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "broken"))


def change_weights(folder: Path, change: Callable[[Weights], Weights]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def change_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def refusal(load_it: Callable[[str], object], folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_it(str(folder))
    assert str(folder) in caught.value.message, "names the folder"
    return caught.value.message


# ---------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("kind", LOADERS)
def test_missing_weights_are_refused_by_name(kind: str, broken: Path) -> None:
    change_weights(broken, lambda w: {name: x for name, x in w.items() if "layers.1" not in name})
    assert "9 weights are missing from its files (model.layers.1.input_layernorm.weight" in refusal(
        LOADERS[kind], broken
    )


@pytest.mark.parametrize("kind", LOADERS)
def test_renamed_weights_are_refused_by_both_names(kind: str, broken: Path) -> None:
    change_weights(broken, lambda w: {name.replace("q_proj", "query"): x for name, x in w.items()})
    message = refusal(LOADERS[kind], broken)
    assert "2 weights are missing from its files (model.layers.0.self_attn.q_proj.weight" in message
    assert "2 weights are not of this model, or renamed (model.layers.0.self_attn.query.weight" in message


@pytest.mark.parametrize("kind", LOADERS)
def test_more_layers_than_the_config_has_are_refused(kind: str, broken: Path) -> None:
    change_config(broken, num_hidden_layers=1)
    assert "9 weights are not of this model, or renamed (model.layers.1." in refusal(LOADERS[kind], broken)


@pytest.mark.parametrize("kind", LOADERS)
def test_weights_of_another_size_are_refused_with_both_sizes(kind: str, broken: Path) -> None:
    change_config(broken, intermediate_size=100)
    message = refusal(LOADERS[kind], broken)
    assert "6 weights are of another size" in message
    assert "model.layers.0.mlp.down_proj.weight is 64 x 96 in the file and 64 x 100 by the config" in message


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused(kind: str, value: float, dtype: torch.dtype, broken: Path) -> None:
    def one(weights: Weights) -> Weights:
        weights["model.layers.1.mlp.up_proj.weight"][3, 5] = value
        return {name: x.to(dtype) for name, x in weights.items()}

    change_weights(broken, one)
    assert "not finite: model.layers.1.mlp.up_proj.weight" in refusal(LOADERS[kind], broken)


def test_tables_that_a_config_gives_may_be_in_a_file(broken: Path) -> None:
    """Older checkpoints hold the angles of rotary positions, which are computed anew."""
    change_weights(broken, lambda w: {**w, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    assert not load_policy(str(broken)).training


def test_only_the_head_may_be_new(whole: Path, broken: Path) -> None:
    """From a language model, whose head is left behind, and from a reward model of another kind; trained, it must have
    its own."""
    model, tokenizer = load_with_head(str(whole))
    steps = broken.with_name("steps")
    model.save_pretrained(steps)
    tokenizer.save_pretrained(steps)
    head = dict(load_with_head(str(steps))[0].named_parameters())["score.weight"]
    torch.testing.assert_close(head, model.score.weight)
    other, _ = load_with_head(str(steps), classes=("wrong", "neutral", "right"))
    assert other.score.weight.shape[0] == 3
    torch.testing.assert_close(other.model.layers[0].mlp.up_proj.weight, model.model.layers[0].mlp.up_proj.weight)
    load_trained(str(steps))
    change_weights(steps, lambda w: {name: x for name, x in w.items() if name != "score.weight"})
    assert "1 weight is missing from its files (score.weight)" in refusal(load_trained, steps)


def test_a_policy_is_not_made_of_a_reward_model(whole: Path, tmp_path: Path) -> None:
    model, tokenizer = load_with_head(str(whole))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert "is a reward model: it judges answers and writes none" in refusal(load_policy, tmp_path)


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    config = {"n_embd": 32, "n_layer": 1, "n_head": 2, "eos_token_id": None, "bos_token_id": None}
    GPT2LMHeadModel(GPT2Config(vocab_size=50, **config)).save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert not load_policy(str(tmp_path)).training


# ------------------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("kind", LOADERS)
def test_a_file_cut_short_is_named_by_its_folder(kind: str, broken: Path) -> None:
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match="could not be loaded") as caught:
        LOADERS[kind](str(broken))
    assert str(broken) in caught.value.message
    assert "cut short or damaged" in str(caught.value.hint)


@pytest.mark.parametrize("fault", ["missing shard", "index names no file", "index without a weight", "index no JSON"])
def test_shards_that_do_not_belong_together_are_refused(fault: str, whole: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(whole).save_pretrained(tmp_path, max_shard_size="40KB")
    index = tmp_path / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    first = sorted(told["weight_map"])[0]
    if fault == "missing shard":
        (tmp_path / told["weight_map"][first]).unlink()
    elif fault == "index names no file":
        told["weight_map"][first] = "nowhere.safetensors"
    elif fault == "index without a weight":
        del told["weight_map"][first]
    index.write_text("{" if fault == "index no JSON" else json.dumps(told))
    wanted = "missing from its files" if fault == "index without a weight" else "could not be loaded"
    assert wanted in refusal(load_policy, tmp_path)


def test_pickles_run_no_code(broken: Path, tmp_path: Path) -> None:
    """An honest pytorch_model.bin is read; one that would run code is refused."""
    weights = load_file(broken / "model.safetensors")
    (broken / "model.safetensors").unlink()
    torch.save(weights, broken / "pytorch_model.bin")
    load_policy(str(broken))
    canary = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {canary}",)

    for write in (lambda f: pickle.dump(Evil(), f), lambda f: torch.save({"lm_head.weight": Evil()}, f)):
        with (broken / "pytorch_model.bin").open("wb") as file:
            write(file)
        assert "could not be loaded: a weight file is a pickle that would run code" in refusal(load_policy, broken)
    assert not canary.exists()


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"model_type": "nothing"}', '{"model_type": "llama", "vocab_size": "x"}']
)
def test_configs_that_are_none_are_refused_when_a_model_is_named(text: str, broken: Path) -> None:
    (broken / "config.json").write_text(text)
    assert "its config.json could not be read" in refusal(find_model, broken)


def test_adapters_without_their_base_are_refused(broken: Path) -> None:
    """Beside a config.json too, where transformers would load the base that the adapter names, from anywhere."""
    (broken / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/model"}))
    assert "is an adapter" in refusal(find_model, broken)
    (broken / "config.json").unlink()
    assert "is an adapter" in refusal(find_model, broken)


def test_a_broken_tokenizer_is_named_by_its_folder(broken: Path) -> None:
    (broken / "tokenizer.json").write_text("{")
    assert "its tokenizer could not be read" in refusal(load_tokenizer, broken)


# ----------------------------------------------------------------------------------------------------- foreign code


def test_code_of_a_model_is_refused_without_asking(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on stdin"))
    canary = broken.with_name("executed")
    auto = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"}
    change_config(broken, model_type="evil", auto_map=auto)
    (broken / "evil.py").write_text(f"open({str(canary)!r}, 'w')\n")
    for load_it in (find_model, load_tokenizer, load_policy, load_with_head, load_trained):
        assert "needs Python code of its own, which is never run" in refusal(load_it, broken)
    assert not canary.exists()


def test_code_that_nobody_needs_is_left_alone(broken: Path) -> None:
    """transformers has the architecture itself; the saved config does not point to files that are not saved."""
    change_config(broken, auto_map={"AutoModelForCausalLM": "evil.EvilModel"})
    (broken / "evil.py").write_text("raise SystemExit\n")
    assert not hasattr(load_policy(str(broken)).config, "auto_map")


def test_kernels_of_the_hub_are_not_fetched(broken: Path) -> None:
    """A config can name a repository of kernels as its attention, which transformers would fetch and run."""
    for key in ("attn_implementation", "_attn_implementation", "experts_implementation"):
        change_config(broken, **{key: "somebody/kernel"})
    assert read_config(find_model(str(broken)))._attn_implementation is None
    assert load_policy(str(broken)).config._attn_implementation == "sdpa"


def test_quantized_weights_are_refused(broken: Path) -> None:
    change_config(broken, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
    assert "is quantized (fp8)" in refusal(load_policy, broken)


# ----------------------------------------------------------------------------------------------------- architecture

SIZES = {"vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}


@pytest.mark.parametrize("kind", LOADERS)
def test_encoders_are_refused(kind: str, tmp_path: Path) -> None:
    save(BertForMaskedLM(BertConfig(**SIZES, num_attention_heads=2)), tmp_path)
    assert "is an encoder: a later token changes" in refusal(LOADERS[kind], tmp_path)


def test_trained_encoders_are_refused(tmp_path: Path) -> None:
    save(BertForSequenceClassification(BertConfig(**SIZES, num_attention_heads=2, num_labels=1)), tmp_path)
    assert "is an encoder" in refusal(load_trained, tmp_path)


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_encoders_with_decoders_are_refused_when_they_are_named(architecture: str, kind: str, tmp_path: Path) -> None:
    if architecture == "t5":
        sizes = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
        save(T5ForConditionalGeneration(T5Config(vocab_size=WORDS, **sizes)), tmp_path)
    else:
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_layers": 1, "decoder_layers": 1}
        sizes = {"d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
        save(BartForConditionalGeneration(BartConfig(vocab_size=WORDS, **sizes, **heads)), tmp_path)
    for load_it in (find_model, LOADERS[kind]):
        assert "is an encoder with a decoder" in refusal(load_it, tmp_path)


def test_words_without_a_row_are_refused(broken: Path, whole: Path) -> None:
    """Added tokens, or a larger vocabulary; rows that no token has are common."""
    tokenizer = character_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})
    tokenizer.save_pretrained(broken)
    for load_it in (load, load_with_head):
        message = refusal(load_it, broken)
        assert (
            f"1 tokens ('<|tool|>') with ids up to {WORDS}, and the model has rows for ids up to {WORDS - 1}" in message
        )
    model, tokenizer = load_with_head(str(whole))
    model.save_pretrained(broken)
    tokenizer.add_tokens(["a new word"])
    tokenizer.save_pretrained(broken)
    assert "'a new word'" in refusal(load_trained, broken)
    more = save(tiny_model("llama", vocabulary=WORDS + 22), broken.with_name("more"))
    assert load(str(more))[0].config.vocab_size == WORDS + 22


def test_layers_on_top_want_layers_as_llama_has_them(tmp_path: Path) -> None:
    config = {"n_embd": 32, "n_layer": 1, "n_head": 2, "eos_token_id": None, "bos_token_id": None, "n_positions": 64}
    save(GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, **config)), tmp_path)
    load_with_head(str(tmp_path))
    with pytest.raises(UserError, match=r"extra_layers.*GPT2"):
        load_with_head(str(tmp_path), extra_layers=1)


# -------------------------------------------------------------------------------------------------------- positions


@pytest.mark.parametrize(
    ("rotary", "longest"),
    [
        (None, 256),
        ({"rope_type": "default"}, 256),
        ({"rope_type": "linear", "factor": 2.0}, 512),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, 1024),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256),
        (
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "original_max_position_embeddings": 32,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            },
            256,
        ),
    ],
)
def test_longest_input_of_rotary_positions(rotary: dict[str, object] | None, longest: int) -> None:
    """Stretched ones reach as far as they are stretched, whether max_position_embeddings counts that or not."""
    config = LlamaConfig(max_position_embeddings=256, rope_parameters=rotary)
    assert longest_input(config) == longest


def test_longest_input_of_others() -> None:
    assert longest_input(GPT2Config(n_positions=64)) == 64
    assert longest_input(MistralConfig(max_position_embeddings=512, sliding_window=16)) == 512, "a window is no limit"
    assert longest_input(MambaConfig()) is None
    assert longest_input(BloomConfig()) is None
    assert longest_input(FalconConfig(alibi=True)) is None


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.float8_e4m3fn])
@pytest.mark.parametrize("load_it", LOADERS.values(), ids=LOADERS)
def test_weights_that_mean_nothing_without_their_scale_are_refused(
    broken: Path, load_it: Callable[[str], object], kind: torch.dtype
) -> None:
    """Also where config.json does not say that they are quantized: read as numbers, most of them would be 0."""
    file = broken / "model.safetensors"
    weights = load_file(file)
    name = next(it for it in weights if "q_proj" in it)
    save_file({**weights, name: weights[name].to(kind)}, file, {"format": "pt"})
    with pytest.raises(UserError, match=rf"1 weights in model.safetensors are stored as \w+ \({name}\)"):
        load_it(str(broken))


@pytest.mark.parametrize("text", ["[1, 2]", "null", '"a"', ""])
def test_a_generation_config_of_another_form_is_named(broken: Path, text: str) -> None:
    (broken / "generation_config.json").write_text(text)
    with pytest.raises(UserError, match=r"its generation_config\.json could not be read"):
        load_tokenizer(str(broken))
