"""The decode step as one function, against transformers' own modules."""

import pytest
import torch
from tiny_models import tiny_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from rlhf.models import decode_step, packed
from rlhf.models.attention import using_attention
from rlhf.models.decode_step import Decoder, DecodeStep, decoder, own_decoder
from rlhf.models.lora import Lora, add_lora
from rlhf.prefix_cache import KeysValues, PrefixCache
from rlhf.sampling import SampledCompletions, sample

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
SIZES = {"vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}


@pytest.fixture(autouse=True)
def _small_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models have no large layers."""
    monkeypatch.setattr(packed, "SMALLEST", 1)


@pytest.fixture(scope="module")
def with_biases() -> nn.Module:
    """Qwen2, whose queries, keys and values have biases."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(Qwen2Config(**SIZES))
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def is_step(model: nn.Module, rows: int = 15) -> bool:
    with decoder(model, rows=rows) as found:
        return isinstance(found.read, DecodeStep)


def draw(model: nn.Module) -> list[SampledCompletions]:
    """Completions of prompts of three lengths, which end at different times."""
    prompts = [[5, 6, 7, 8], [11], [12, 13, 14]]
    ends = [1, 2, 3, 40, 41, 42]
    return sample(model, prompts, completions=5, max_new_tokens=12, end_tokens=ends, keys=[(i,) for i in range(3)])


def assert_samples_the_same(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_step(model)
    found = draw(model)
    monkeypatch.setattr(decode_step, "KINDS", ())
    assert not is_step(model)
    wanted = draw(model)
    assert len({len(tokens) for one in wanted for tokens in one.tokens}) > 3, "of many lengths, or this tests little"
    assert [one.tokens for one in found] == [one.tokens for one in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        for row, other in zip(ours.logp, theirs.logp, strict=True):
            assert row == pytest.approx(other, abs=1e-5)


def test_the_same_completions(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_samples_the_same(model, monkeypatch)


def test_biases_are_added(with_biases: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_samples_the_same(with_biases, monkeypatch)


@torch.no_grad()
def test_under_autocast_it_is_as_close_to_fp32_as_the_modules_are(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "has_bf16_kernels", lambda: True)
    token, position = torch.arange(15), torch.full((15,), 4)

    def states(read: Decoder) -> torch.Tensor:
        cache = PrefixCache(torch.tensor([4, 4, 4]), group_size=5, max_new_tokens=2)
        generator = torch.Generator().manual_seed(0)
        half = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
        for _ in model.model.layers:
            cache.prompt.append(KeysValues(torch.randn(2, 2, 3, 4, 16, generator=generator).to(half)))
        with using_attention(model, "prefix_decode"):
            return read.read(token, position, cache)

    exact = states(own_decoder(model))
    with torch.autocast("cpu", torch.bfloat16):
        modules = states(own_decoder(model))
        with decoder(model, rows=15) as step:
            assert isinstance(step.read, DecodeStep)
            found = states(step)
    assert found.dtype == torch.float32
    assert 0 < (found - exact).norm() < 1.2 * (modules - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_norm_is_that_of_the_architecture(dtype: torch.dtype) -> None:
    """Of small numbers too, where epsilon counts, and in fp32 of half-precise ones."""
    norm = LlamaRMSNorm(64, eps=1e-5)
    nn.init.normal_(norm.weight)
    x = (torch.randn(3, 5, 64) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]).to(dtype)
    found = decode_step._Norm(norm)(x)
    torch.testing.assert_close(found, norm(x.float()), atol=1e-6, rtol=1e-5)


def test_what_it_does_not_know_is_left_to_the_modules() -> None:
    """Other architectures, adapters, weights that are not fp32, and few rows."""
    assert not is_step(MistralForCausalLM(MistralConfig(**SIZES)))
    adapted = tiny_model("llama", layers=1)
    add_lora(adapted, Lora(2))
    assert not is_step(adapted)
    assert not is_step(tiny_model("llama", layers=1).to(torch.bfloat16))
    assert not is_step(tiny_model("llama", layers=1), rows=7)


def test_a_model_trains_after_it_sampled() -> None:
    """Positions of this kind are computed anew for long texts and kept, and nothing of inference mode may stay."""
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    model = LlamaForCausalLM(LlamaConfig(**SIZES | {"max_position_embeddings": 8}, rope_parameters=rope))
    draw(model)
    assert not any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers()))
    model(input_ids=torch.arange(14)[None]).logits.sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())
