"""Shared rows without their padding, and attention branch by branch: the same numbers as under the mask."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from tiny_models import ARCHITECTURES, tiny_model
from torch import Tensor, nn
from transformers import Gemma3Config, Gemma3ForConditionalGeneration
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rlhf import logprobs
from rlhf.groups import Group, Rows, micro_batches
from rlhf.logprobs import Scorer
from rlhf.models import unpadded
from rlhf.models.attention import using_attention
from rlhf.models.branch_attention import branch_attention
from rlhf.models.recomputing import checkpoint_activations
from rlhf.models.unpadded import goes_unpadded

GROUPS = [
    Group([3, 1, 4, 1, 5, 9, 2], [[6, 5, 3, 5], [8], [9, 7, 9, 3, 2, 3, 8, 4, 6]]),
    Group([2], [[6, 4, 3], [3]]),
    Group([8, 3, 2, 7, 9], [[5, 0, 2]]),
]


def rows_of(groups: list[Group], *, pack_to: int = 0) -> Rows:
    (rows,) = micro_batches(groups, token_budget=1000, pack_to=pack_to)
    return rows


def log_probabilities_and_gradients(model: nn.Module, rows: Rows) -> tuple[Tensor, Tensor, list[Tensor]]:
    model.zero_grad()
    scores = Scorer(model)(rows)
    (scores.logp.sum() + scores.entropy.square().sum()).backward()
    return scores.logp.detach(), scores.entropy.detach(), [weight.grad.clone() for weight in model.parameters()]


@pytest.mark.parametrize("pack_to", [0, 22])
@pytest.mark.parametrize("branches", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_numbers_and_gradients_are_those_of_padded_rows(
    monkeypatch, architecture: str, branches: bool, pack_to: int
) -> None:
    model = tiny_model(architecture)
    rows = rows_of(GROUPS, pack_to=pack_to)
    monkeypatch.setattr(unpadded, "LONG", 0 if branches else 1000)
    monkeypatch.setattr(unpadded, "LEAST", 0)
    assert goes_unpadded(model, rows)
    found = log_probabilities_and_gradients(model, rows)
    monkeypatch.setattr(logprobs, "goes_unpadded", lambda *_: False)
    wanted = log_probabilities_and_gradients(model, rows)
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


def test_the_model_reads_no_padding() -> None:
    model = tiny_model("qwen3")
    read: list[int] = []
    model.get_input_embeddings().register_forward_hook(lambda _module, inputs, _output: read.append(inputs[0].numel()))
    Scorer(model)(rows_of(GROUPS))
    assert read == [sum(len(group.prompt) + sum(map(len, group.completions)) for group in GROUPS)]


def test_short_rows_have_the_kernel_of_short_rows(monkeypatch) -> None:
    blocked: list[bool] = []

    def attention(*args, **options):
        blocked.append(torch.backends.cuda.flash_sdp_enabled())
        return sdpa_attention_forward(*args, **options)

    monkeypatch.setattr(unpadded, "sdpa_attention_forward", attention)
    Scorer(tiny_model("qwen3"))(rows_of(GROUPS))
    assert blocked == [False, False], "in each of two layers"


def test_rows_that_stay_as_they_are() -> None:
    model = tiny_model("qwen3")
    rows = rows_of(GROUPS)
    assert goes_unpadded(model, rows)
    little = [Group([5] * 6, [[6], [7]]), Group([5] * 5, [[6], [7]])]
    assert not goes_unpadded(model, rows_of(little)), "one place of 16"
    assert not goes_unpadded(model, rows_of([Group([5], [[6, 7]]), Group([5], [[6]])])), "causal, without a mask"
    model.config._attn_implementation = "eager"
    assert not goes_unpadded(model, rows)
    model.config._attn_implementation = "sdpa"
    checkpoint_activations(model)
    assert not goes_unpadded(model, rows)


def test_long_rows_need_no_padding_to_gain() -> None:
    group = Group([5] * (unpadded.LONG - 3), [[6], [7, 8]])
    assert goes_unpadded(tiny_model("qwen3"), rows_of([group]))


def test_dropout_of_attention_is_kept(monkeypatch) -> None:
    monkeypatch.setattr(unpadded, "LONG", 0)
    model = tiny_model("qwen3").train()
    for layer in model.base_model.layers:
        layer.self_attn.attention_dropout = 0.5
    one, other = (Scorer(model)(rows_of(GROUPS)).logp for _ in range(2))
    assert not torch.allclose(one, other)


def test_layers_with_a_config_of_their_own_take_part() -> None:
    """A copied layer has a copy of the config."""
    model = tiny_model("qwen3")
    wanted = Scorer(model)(rows_of(GROUPS)).logp
    for i, layer in enumerate(model.base_model.layers):
        model.base_model.layers[i] = deepcopy(layer)
    torch.testing.assert_close(Scorer(model)(rows_of(GROUPS)).logp, wanted)
    assert {layer.self_attn.config._attn_implementation for layer in model.base_model.layers} == {"sdpa"}


def test_parts_of_a_model_get_their_own_attention_back() -> None:
    """Setting the attention of a model of several parts sets it in all of them."""
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = small | {"vocab_size": 50, "num_key_value_heads": 1, "head_dim": 8}
    config = Gemma3Config(text_config=text, vision_config=small | {"image_size": 28, "patch_size": 14})
    model = Gemma3ForConditionalGeneration(config)
    model.set_attn_implementation({"": "sdpa", "text_config": "eager", "vision_config": "sdpa"})

    def attention() -> list[str]:
        parts = (model.config, model.config.text_config, model.config.vision_config)
        return [part._attn_implementation for part in parts]

    before = attention()
    assert before == ["sdpa", "eager", "sdpa"]
    with using_attention(model, unpadded.NAME):
        assert attention() != before
    assert attention() == before


# ----------------------------------------------------------------------------------------------- attention by branches

BOUNDS = [[0, 3, 5, 6], [6, 7, 11]]  # a prompt of 3 tokens, completions of 2 and 1; a prompt of 1, a completion of 4


def heads(count: int, *, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(1, count, 11, 8, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def explicit_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Token by token: softmax over its prompt and its completion up to itself."""
    out = torch.zeros_like(query)
    for start, prompt_end, *ends in BOUNDS:
        firsts = [start, prompt_end, *ends[:-1]]
        for first, end in zip(firsts, [prompt_end, *ends], strict=True):
            for i in range(first, end):
                seen = [j for j in range(start, i + 1) if j < prompt_end or j >= first]
                for h in range(query.shape[1]):
                    k = h * key.shape[1] // query.shape[1]
                    weight = (key[0, k, seen] @ query[0, h, i] * scale).softmax(0)
                    out[0, h, i] = weight @ value[0, k, seen]
    return out


@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_attention_by_branches_is_softmax_over_what_a_token_sees(key_heads: int, scale: float | None) -> None:
    query, key, value = heads(4, seed=0), heads(key_heads, seed=1), heads(key_heads, seed=2)
    found = branch_attention(query, key, value, BOUNDS, scale)
    torch.testing.assert_close(found, explicit_attention(query, key, value, scale or 8**-0.5))


def test_numbers_of_a_head_may_lie_apart() -> None:
    inputs = [heads(count, seed=i) for i, count in enumerate((4, 2, 2))]
    apart = [x.transpose(2, 3).contiguous().transpose(2, 3) for x in inputs]
    assert all(x.stride(-1) != 1 for x in apart)
    torch.testing.assert_close(branch_attention(*apart, BOUNDS, None), branch_attention(*inputs, BOUNDS, None))


@pytest.mark.parametrize("scale", [None, 0.7])
def test_its_gradient_is_that_of_finite_differences(scale: float | None) -> None:
    inputs = [heads(count, seed=i).requires_grad_() for i, count in enumerate((4, 2, 2))]
    attention: Callable[..., Tensor] = lambda *heads: branch_attention(*heads, BOUNDS, scale)  # noqa: E731
    assert torch.autograd.gradcheck(attention, inputs)


def test_under_autocast_it_is_computed_in_half_precision() -> None:
    inputs = [heads(count, seed=i, dtype=torch.float32) for i, count in enumerate((4, 2, 2))]
    ours = [x.clone().requires_grad_() for x in inputs]
    exact = [x.clone().requires_grad_() for x in inputs]
    with torch.autocast("cpu", torch.bfloat16):
        out = branch_attention(*ours, BOUNDS, None)
    wanted = branch_attention(*exact, BOUNDS, None)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), wanted, atol=0.03, rtol=0.03)
    out.float().square().sum().backward()
    wanted.square().sum().backward()
    for mine, true in zip(ours, exact, strict=True):
        assert mine.grad is not None
        assert mine.grad.dtype == torch.float32
        torch.testing.assert_close(mine.grad, true.grad, atol=0.1, rtol=0.1)
