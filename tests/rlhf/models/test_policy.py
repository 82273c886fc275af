"""Loading: names, precision, adapters, checkpointing."""

import warnings
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model
from torch import nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from rlhf.errors import UserError
from rlhf.groups import Group, micro_batches
from rlhf.logprobs import Scorer, score
from rlhf.models.architecture import attention_window, probing, takes_shared_rows
from rlhf.models.lora import Lora, add_lora, merge_lora
from rlhf.models.policy import choose_precision, find_model, load_policy, load_tokenizer, move_towards
from rlhf.sampling import sample, shares_prompts

CPU = torch.device("cpu")
GROUP = Group([1, 2, 3], [[4, 5, 6], [7, 8]])


def logp(model: nn.Module) -> torch.Tensor:
    return score(Scorer(model), [GROUP], token_budget=100, device=CPU).logp


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model("qwen3").save_pretrained(path)
    return path


def test_load_policy_is_fp32_and_the_same_model(folder: Path) -> None:
    """Saved in bf16, its master weights are still loaded as fp32."""
    torch.testing.assert_close(logp(load_policy(str(folder))), logp(tiny_model("qwen3")))
    half = folder.with_name("half")
    tiny_model("qwen3").bfloat16().save_pretrained(half)
    assert {p.dtype for p in load_policy(str(half)).parameters()} == {torch.float32}


def test_a_run_directory_stands_for_its_model(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "final").symlink_to(folder)
    assert find_model(str(tmp_path)).path == str(tmp_path / "final")
    assert find_model(str(folder)).path == str(folder)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "runs/nowhere"])
def test_missing_folders(name: str) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        find_model(name)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model"):
        find_model(str(tmp_path))


def test_gradient_checkpointing_happens(folder: Path) -> None:
    """Without a training mode, which would turn dropout on; sampling in between must not switch it off."""
    with warnings.catch_warnings(action="error", category=FutureWarning):  # transformers renames it
        model = load_policy(str(folder), gradient_checkpointing=True)
    calls: list[int] = []
    model.base_model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    sample(model, [[1, 2]], completions=2, max_new_tokens=2, end_tokens=[], keys=[(0,)])
    calls.clear()
    (rows,) = micro_batches([GROUP], token_budget=100)
    Scorer(model)(rows).logp.sum().backward()
    assert len(calls) == 2


def test_lora(folder: Path) -> None:
    """New adapters add B A = 0: the model is as before. Only they learn. Merged, they are gone but not what they do."""
    model = load_policy(str(folder), lora=Lora(4))
    before = logp(tiny_model("qwen3"))
    torch.testing.assert_close(logp(model), before)
    assert takes_shared_rows(model)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 7 * 2, "A and B on seven linear layers of two blocks"
    assert all("lora" in name for name in trained)

    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    changed = logp(model)
    assert (changed - before).abs().max() > 0.01
    (sampled,) = sample(model, [[1, 2, 3]], completions=2, max_new_tokens=5, end_tokens=[9], keys=[(0,)])
    scored = score(Scorer(model), [Group([1, 2, 3], sampled.tokens)], token_budget=100, device=CPU).logp
    for ours, row in zip(sampled.logp, scored, strict=True):
        assert ours == pytest.approx(row[: len(ours)].tolist(), abs=1e-4)

    merge_lora(model)
    torch.testing.assert_close(logp(model), changed, atol=1e-4, rtol=1e-4)
    assert not any("lora" in name for name, _ in model.named_parameters())
    again = folder.with_name("merged")
    model.save_pretrained(again)
    torch.testing.assert_close(logp(load_policy(str(again))), changed, atol=1e-4, rtol=1e-4)


def test_lora_targets_and_alpha(folder: Path) -> None:
    """Adapters on the named layers alone, counting alpha / rank times; a name that is none is answered with those."""
    model = load_policy(str(folder), lora=Lora(2, alpha=6, targets=["q_proj", "down_proj"]))
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert adapted == {"q_proj", "down_proj"}
    assert model.base_model.layers[0].self_attn.q_proj.scaling == {"default": 3.0}
    with pytest.raises(UserError, match="no linear layer 'q_porj'; did you mean 'q_proj'") as refused:
        load_policy(str(folder), lora=Lora(2, targets=["k_proj", "q_porj"]))
    assert "down_proj, gate_proj" in refused.value.hint


def test_adapters_are_merged_in_fp32(folder: Path) -> None:
    """A frozen weight in bf16 would round most of them away."""
    model = load_policy(str(folder), lora=Lora(2))
    layer = model.base_model.layers[0].self_attn.q_proj
    layer.base_layer.to(torch.bfloat16)
    base = layer.base_layer.weight.detach().float()
    layer.lora_B.default.weight.data += 1e-4
    added = 2 * layer.lora_B.default.weight @ layer.lora_A.default.weight
    merge_lora(model)
    merged = model.base_model.layers[0].self_attn.q_proj.weight
    assert merged.dtype == torch.float32
    torch.testing.assert_close(merged - base, added, atol=5e-8, rtol=1e-2)


def test_precision() -> None:
    assert choose_precision("fp32", CPU) == "fp32"
    assert choose_precision("bf16", CPU) == "bf16"
    assert choose_precision("auto", CPU) in ("fp32", "bf16")


def test_bf16_that_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: False)
    assert choose_precision("auto", torch.device("cuda")) == "fp32"
    with pytest.raises(UserError, match="this CUDA device has no bf16"):
        choose_precision("bf16", torch.device("cuda"))


def test_the_embedded_model() -> None:
    """It is there without network, its tokenizer fits, and it takes shared rows."""
    tokenizer, model = load_tokenizer("embedded"), load_policy("embedded")
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert takes_shared_rows(model)


# ---------------------------------------------------- architectures that do more than attend and multiply by a matrix

SIZES = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.1,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def own_logp(model: nn.Module, prompt: list[int], completion: list[int]) -> list[float]:
    with torch.no_grad():
        logp = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0].log_softmax(-1)
    return [logp[len(prompt) - 1 + i, token].item() for i, token in enumerate(completion)]


@pytest.mark.parametrize("name", ["granite", "phi", "gemma2"])
def test_heads_that_are_more_than_a_matrix_are_refused(name: str, tmp_path: Path) -> None:
    """Granite divides its logits, Phi adds a bias, Gemma 2 squashes them: another policy than the one loaded."""
    torch.manual_seed(0)
    model = {
        "granite": lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=4.0)),
        "phi": lambda: PhiForCausalLM(PhiConfig(**SIZES)),
        "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=16, final_logit_softcapping=1.0)),
    }[name]()
    if name == "phi":
        nn.init.normal_(model.lm_head.bias)
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"{type(model).__name__}.*more to its logits.*nats"):
        load_policy(str(tmp_path))


def test_a_head_that_changes_nothing_is_taken(tmp_path: Path) -> None:
    GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=1.0)).save_pretrained(tmp_path)
    assert type(load_policy(str(tmp_path))) is GraniteForCausalLM


def test_architectures_without_sdpa_are_loaded(tmp_path: Path) -> None:
    """Bloom has eager attention only, which is found without asking for it."""
    BloomForCausalLM(BloomConfig(vocab_size=50, hidden_size=32, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    assert load_policy(str(tmp_path)).config._attn_implementation == "eager"
    tiny_model("qwen3").save_pretrained(tmp_path / "qwen3")
    assert load_policy(str(tmp_path / "qwen3")).config._attn_implementation == "sdpa"


def test_sliding_windows() -> None:
    """Beyond its window a model must not look. The mask of a shared or packed row would let it: it gets padded ones."""
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=16)).eval()
    assert attention_window(model) == 16
    assert not takes_shared_rows(model)
    assert_rows_are_its_own(model, [list(range(40)), [50, 51]])


@pytest.mark.parametrize("name", ["mamba", "rwkv", "gpt_neo"])
def test_models_that_cannot_take_packed_rows_get_a_row_for_each(name: str) -> None:
    """A recurrent model reads one conversation on into the next; local attention is a window of another name."""
    torch.manual_seed(0)
    none = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    small = {"vocab_size": 100, "hidden_size": 32, **none}
    model = {
        "mamba": lambda: MambaForCausalLM(MambaConfig(**small, num_hidden_layers=2, state_size=4)),
        "rwkv": lambda: RwkvForCausalLM(RwkvConfig(**small, num_hidden_layers=2, attention_hidden_size=32)),
        "gpt_neo": lambda: GPTNeoForCausalLM(
            GPTNeoConfig(
                **small, num_layers=2, attention_types=[[["global", "local"], 1]], num_heads=2, window_size=16,
                max_position_embeddings=128,
            )
        ),
    }[name]().eval()  # fmt: skip
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3) if parameter.ndim > 1 else None
    assert not takes_shared_rows(model)
    assert_rows_are_its_own(model, [list(range(40)), [50, 51]])


def assert_rows_are_its_own(model: nn.Module, prompts: list[list[int]]) -> None:
    """Packing asked for, as instruction tuning asks: each conversation has the log-probabilities that it has alone."""
    shared = takes_shared_rows(model)
    groups = [Group(prompt, [[5, 6, 7, 8]]) for prompt in prompts]
    for rows in micro_batches(groups, token_budget=1000, shared_prefix=shared, pack_to=200):
        scored = Scorer(model)(rows).logp
        for number, logp in zip(rows.index.tolist(), scored, strict=True):
            assert logp.tolist() == pytest.approx(own_logp(model, prompts[number], [5, 6, 7, 8]), abs=1e-3)


@pytest.mark.parametrize(
    ("model_class", "config", "window"),
    [
        (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=None), None),
        (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=64, max_position_embeddings=64), None),
        (Qwen2ForCausalLM, Qwen2Config(**SIZES, sliding_window=8, use_sliding_window=False), None),
        (Qwen2ForCausalLM, Qwen2Config(**SIZES, sliding_window=8, use_sliding_window=True, max_window_layers=1), 8),
        (Gemma3ForCausalLM, Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=32), 32),
        (Gemma3ForCausalLM, Gemma3TextConfig(**SIZES, head_dim=16, layer_types=["full_attention"] * 2), None),
    ],
)
def test_windows_that_matter(model_class, config, window: int | None) -> None:
    """None where no layer has one, or the model takes no text longer than it."""
    assert attention_window(model_class(config)) == window


def test_eager_attention_sees_the_same() -> None:
    """It adds the mask to its scores: True and False would be 1 and 0."""
    expected = logp(tiny_model("qwen3"))
    model = tiny_model("qwen3")
    model.config._attn_implementation = "eager"
    assert takes_shared_rows(model)
    assert shares_prompts(model)
    torch.testing.assert_close(logp(model), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        expected, score(Scorer(model), [GROUP], token_budget=100, device=CPU, shared_prefix=False).logp
    )


def test_probing_leaves_no_trace() -> None:
    model = tiny_model("qwen3").train()
    attention = model.config._attn_implementation
    assert takes_shared_rows(model)
    with probing(model):
        assert not model.training
        assert not torch.is_grad_enabled()
    assert model.training
    assert model.config._attn_implementation == attention
    assert torch.is_grad_enabled()


def test_a_model_that_takes_no_adapters_says_so() -> None:
    model = MambaForCausalLM(MambaConfig(vocab_size=32, hidden_size=16, state_size=4, num_hidden_layers=1))
    with pytest.raises(UserError, match="lora_rank: MambaForCausalLM takes no adapters"):
        add_lora(model, Lora(2))


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is a file, wanted a folder"):
        find_model(str(tmp_path / "config.json"))


def test_a_reference_follows_a_policy_that_is_stored_in_bf16() -> None:
    """A quarter of the way from 1 to 3 is 1.5; the reference stays in fp32, in which small moves are not lost."""
    reference, policy = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False).to(torch.bfloat16)
    nn.init.constant_(reference.weight, 1.0)
    nn.init.constant_(policy.weight, 3.0)
    move_towards(reference, policy, mix=0.25)
    assert torch.equal(reference.weight.detach(), torch.full((2, 2), 1.5))
