"""Frozen weights in bf16: half the memory, and under autocast the same numbers to the bit."""

import pytest
import torch
from tiny_models import tiny_model
from torch import nn

from rlhf.groups import Group, micro_batches
from rlhf.logprobs import Scorer, score
from rlhf.models.architecture import HEADS
from rlhf.models.frozen import store_in_bf16, without_adapters
from rlhf.models.lora import Lora, add_lora
from rlhf.prefix_cache import PrefixCache
from rlhf.sampling import sample

GROUPS = [Group([5, 6, 7], [[8, 9, 10, 11], [12, 13]]), Group([9, 4], [[3, 2, 5]])]


def log_probabilities(model: nn.Module) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return score(Scorer(model), GROUPS, token_budget=100, device=torch.device("cpu")).logp


@pytest.mark.parametrize("kind", ["qwen3", "llama", "olmo2"])
@pytest.mark.parametrize("published_in_bf16", [False, True])
def test_no_log_probability_changes(kind: str, published_in_bf16: bool) -> None:
    model = tiny_model(kind).requires_grad_(False)
    if published_in_bf16:
        model.to(torch.bfloat16).float()
    before = log_probabilities(model)
    store_in_bf16(model)
    torch.testing.assert_close(log_probabilities(model), before, rtol=0, atol=0)


def test_matrix_products_and_what_is_in_bf16_already_are_stored_in_bf16() -> None:
    model = tiny_model("qwen3").requires_grad_(False)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(model.get_input_embeddings().weight.bfloat16())
        if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
            model.get_output_embeddings().weight.normal_()
    store_in_bf16(model)
    stored = {name: p.dtype for name, p in model.named_parameters()}
    assert all(kind == torch.bfloat16 for name, kind in stored.items() if "proj" in name)
    assert all(kind == torch.float32 for name, kind in stored.items() if "norm" in name)
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert model.get_input_embeddings()(torch.tensor([1])).dtype == torch.float32


def test_weights_that_learn_and_heads_stay_in_fp32() -> None:
    from transformers import AutoModelForSequenceClassification

    policy = tiny_model("qwen3")
    add_lora(policy, Lora(2))
    store_in_bf16(policy)
    assert {p.dtype for p in policy.parameters() if p.requires_grad} == {torch.float32}
    assert torch.bfloat16 in {p.dtype for p in policy.parameters() if not p.requires_grad}

    judge = AutoModelForSequenceClassification.from_config(policy.config).requires_grad_(False)
    store_in_bf16(judge)
    (head,) = (getattr(judge, name) for name in HEADS if hasattr(judge, name))
    assert head.weight.dtype == torch.float32


def test_adapters_learn_alike_on_either() -> None:
    gradients = []
    for halved in (False, True):
        torch.manual_seed(0)
        model = tiny_model("llama", seed=1)
        add_lora(model, Lora(2))
        torch.manual_seed(1)
        for p in model.parameters():
            if p.requires_grad:
                nn.init.normal_(p, std=0.1)
        if halved:
            store_in_bf16(model)
        with torch.autocast("cpu", torch.bfloat16):
            (rows,) = micro_batches(GROUPS, token_budget=100)
            Scorer(model)(rows).logp.sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


def test_sampling_is_the_same_to_the_bit() -> None:
    model = tiny_model("qwen3").requires_grad_(False)

    def sampled():
        with torch.autocast("cpu", torch.bfloat16):
            return sample(model, [[5, 6, 7]], completions=3, max_new_tokens=6, end_tokens=[0], keys=[(1, 2)])

    before = sampled()
    store_in_bf16(model)
    assert sampled() == before


def test_keys_are_kept_as_attention_reads_them() -> None:
    """Qwen3's norm makes fp32 keys under autocast: kept so, they would take twice the memory."""
    cache = PrefixCache(torch.tensor([3]), group_size=1, max_new_tokens=2)
    with torch.autocast("cpu", torch.bfloat16):
        key, value = cache.update(torch.ones(1, 1, 3, 2), torch.ones(1, 1, 3, 2), 0)
    assert {key.dtype, value.dtype, cache.prompt[0].both.dtype} == {torch.bfloat16}
    key, _ = PrefixCache(torch.tensor([3]), 1, 2).update(torch.ones(1, 1, 3, 2), torch.ones(1, 1, 3, 2), 0)
    assert key.dtype == torch.float32


def test_adapters_are_off_inside_and_on_again_whatever_happens() -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    plain = tiny_model("llama", layers=1)
    ids = torch.tensor([[1, 2, 3]])
    before = plain(ids).logits
    model = get_peft_model(plain, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    changed = model(ids).logits
    assert not torch.allclose(changed, before, atol=1e-3)
    with without_adapters(model):
        torch.testing.assert_close(model(ids).logits, before)
    torch.testing.assert_close(model(ids).logits, changed)
    with pytest.raises(KeyError), without_adapters(model):
        raise KeyError
    torch.testing.assert_close(model(ids).logits, changed)
