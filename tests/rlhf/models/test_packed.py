"""Weights laid out for decoding: the same completions and log-probabilities, and a model that is as it was."""

import pytest
import torch
from tiny_models import tiny_model
from torch import nn

from rlhf.models import decode_step
from rlhf.models import packed as module
from rlhf.models.lora import Lora, add_lora
from rlhf.models.packed import bytes_of_packed, packed
from rlhf.sampling import SampledCompletions, sample

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
STATES = torch.randn(9, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def small_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models have no large layers. And all are decoded by their own modules, as architectures in general."""
    monkeypatch.setattr(module, "SMALLEST", 1)
    monkeypatch.setattr(decode_step, "KINDS", ())


def draw(model: nn.Module) -> list[SampledCompletions]:
    prompts = [[5, 6, 7, 8], [11], [12, 13, 14]]
    keys = [(i,) for i in range(3)]
    return sample(model, prompts, completions=5, max_new_tokens=8, end_tokens=[1, 2, 3], keys=keys)


def assert_same(found: list[SampledCompletions], wanted: list[SampledCompletions], tolerance: float) -> None:
    assert [one.tokens for one in found] == [one.tokens for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        for ours, theirs in zip(one.logp, other.logp, strict=True):
            assert ours == pytest.approx(theirs, abs=tolerance)


def count_products(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The kinds of numbers of each layer that is laid out, in a list that grows."""
    kinds: list[torch.dtype] = []
    plain = module.product

    def counted(layers: list[nn.Linear], dtype: torch.dtype):
        kinds.append(dtype)
        return plain(layers, dtype)

    monkeypatch.setattr(module, "product", counted)
    return kinds


@pytest.mark.usefixtures("small_too")
def test_the_same_completions(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every architecture, from layouts of all its layers: 7 of each of 2, and the vocabulary projection."""
    kinds = count_products(monkeypatch)
    found = draw(model)
    assert kinds == [torch.float32] * 15
    monkeypatch.setattr(module, "FEWEST_ROWS", 100)
    assert_same(found, draw(model), 1e-5)
    assert len(kinds) == 15


@pytest.mark.usefixtures("small_too")
def test_adapters_are_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("qwen3")
    add_lora(model, Lora(2))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.3)
    found = draw(model)
    monkeypatch.setattr(module, "FEWEST_ROWS", 100)
    assert_same(found, draw(model), 1e-5)


@pytest.mark.usefixtures("small_too")
def test_under_autocast_layers_are_half_precise(monkeypatch: pytest.MonkeyPatch) -> None:
    model, kinds = tiny_model("llama"), count_products(monkeypatch)
    monkeypatch.setattr(module, "has_bf16_kernels", lambda: True)
    layer = model.model.layers[0].mlp.up_proj
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = layer(STATES)
        with packed(model, rows=9):
            found = layer(STATES)
    assert found.dtype == plain.dtype == torch.bfloat16
    torch.testing.assert_close(found, plain, atol=2**-7, rtol=2**-7)  # rounded once more or less
    assert kinds == [torch.bfloat16] * 14


@torch.no_grad()
def test_a_half_precise_projection_rounds_likely_tokens_least() -> None:
    """Logits of 40 + N(0, 1), of three likely tokens 6 more: bf16 alone rounds 40 by up to 0.125."""
    head = nn.Linear(64, 1000, bias=False)
    noise = torch.randn(1000, 64, generator=torch.Generator().manual_seed(0)) / 8
    errors, plain_errors = [], []
    for state in STATES:
        head.weight.copy_(noise + 40 * state / state.square().sum())
        head.weight[:3] += 6 * state / state.square().sum()
        exact = head(state[None]).log_softmax(-1)[:, :3]
        with torch.autocast("cpu", torch.bfloat16):
            found = module.packed_projection(head)(state[None])
            plain = head(state[None]).float().log_softmax(-1)[:, :3]
        assert found.dtype == torch.float32
        errors.append((found.log_softmax(-1)[:, :3] - exact).abs().max())
        plain_errors.append((plain - exact).abs().max())
    assert sum(errors) / len(STATES) < 0.01  # 0.014 without the shift by log v, 0.13 without the mean row
    assert sum(plain_errors) / len(STATES) > 0.1
    torch.testing.assert_close(module.packed_projection(head)(STATES), head(STATES), atol=1e-4, rtol=0)


@pytest.mark.usefixtures("small_too")
@torch.no_grad()
def test_a_layer_with_a_bias() -> None:
    layer = nn.Linear(64, 32)
    torch.testing.assert_close(module.product([layer], torch.float32)(STATES), layer(STATES), atol=1e-5, rtol=0)


@pytest.mark.usefixtures("small_too")
def test_the_model_and_the_kernels_are_as_they_were_even_after_an_error() -> None:
    model, kernels = tiny_model("qwen3"), torch.backends.mkldnn.matmul
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    before, kernels.fp32_precision = kernels.fp32_precision, "bf16"

    def look_and_fail() -> None:
        assert kernels.fp32_precision == "none"
        assert any("forward" in vars(layer) for layer in model.modules())
        raise KeyError

    try:
        with pytest.raises(KeyError), packed(model, rows=9):
            look_and_fail()
        assert kernels.fp32_precision == "bf16"
    finally:
        kernels.fp32_precision = before
    assert not any("forward" in vars(layer) for layer in model.modules())
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


def test_few_rows_small_layers_and_half_precision_without_kernels_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, kinds = tiny_model("qwen3"), count_products(monkeypatch)
    draw(model)  # 15 rows, no large layer
    monkeypatch.setattr(module, "SMALLEST", 1)
    with torch.no_grad(), packed(model, rows=7):
        pass
    monkeypatch.setattr(module, "has_bf16_kernels", lambda: False)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), packed(model, rows=9):
        pass
    assert not kinds


def test_the_copies_take_what_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama: 2 layers of q, o (64 x 64), k, v (32 x 64) and three of 96 x 64; the vocabulary of 100."""
    monkeypatch.setattr(module, "SMALLEST", 64 * 64)
    large = 2 * (2 * 64 * 64 + 3 * 64 * 96)
    assert bytes_of_packed(tiny_model("llama"), width=2) == 2 * (large + 100 * 64)
