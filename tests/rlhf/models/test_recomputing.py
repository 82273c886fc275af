"""Dropout is off, always: what is sampled, scored and trained on is one policy, recomputed or not."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, OPTConfig, PreTrainedConfig, PreTrainedModel, Qwen3Config
from transformers.modeling_layers import GradientCheckpointingLayer

from rlhf.embedded.make import character_tokenizer
from rlhf.errors import UserError
from rlhf.groups import Group, micro_batches
from rlhf.logprobs import Scorer, score
from rlhf.models.heads import HeadScorer, load_with_head
from rlhf.models.lora import Lora
from rlhf.models.policy import load_policy
from rlhf.models.recomputing import checkpoint_activations, recomputes
from rlhf.sampling import sample

CPU = torch.device("cpu")
PROMPT = [5, 6, 7, 8]
WORDS = len(character_tokenizer())
NONE = {"eos_token_id": None, "bos_token_id": None, "pad_token_id": None}
OPT = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
QWEN = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16}
CONFIGS: dict[str, Callable[[], object]] = {
    "gpt2": lambda: GPT2Config(vocab_size=WORDS, n_embd=32, n_layer=2, n_head=2, n_positions=64, **NONE),
    "opt": lambda: OPTConfig(vocab_size=WORDS, max_position_embeddings=64, dropout=0.3, **OPT, **NONE),
    "qwen3": lambda: Qwen3Config(vocab_size=WORDS, num_key_value_heads=1, attention_dropout=0.3, **QWEN, **NONE),
}


@pytest.fixture(scope="module", params=CONFIGS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Modules, functions of layers and attention kernels that drop out, by their configs."""
    path = tmp_path_factory.mktemp("dropout") / request.param
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[request.param]()).save_pretrained(path)
    character_tokenizer().save_pretrained(path)
    return path


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("rank", [0, 2])
def test_sampled_scored_and_trained_log_probabilities_are_the_same(folder: Path, recomputed: bool, rank: int) -> None:
    model = load_policy(str(folder), gradient_checkpointing=recomputed, lora=Lora(rank) if rank else None)
    (sampled,) = sample(model, [PROMPT], completions=2, max_new_tokens=5, end_tokens=[], keys=[(0,)])
    groups = [Group(PROMPT, sampled.tokens)]
    scored = score(Scorer(model), groups, token_budget=100, device=CPU).logp
    (rows,) = micro_batches(groups, token_budget=100)
    trained = Scorer(model)(rows).logp
    assert trained.requires_grad
    torch.testing.assert_close(torch.tensor(sampled.logp), scored, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(trained.detach(), scored, atol=1e-5, rtol=1e-5)


def test_reward_models_have_no_dropout_either(folder: Path) -> None:
    model, _ = load_with_head(str(folder), gradient_checkpointing=True)
    (rows,) = micro_batches([Group(PROMPT, [[9, 10], [11]])], token_budget=100)
    one, other = (HeadScorer(model)(rows).final for _ in range(2))
    torch.testing.assert_close(one, other)


def test_recomputed_layers_have_the_gradients_of_kept_ones(folder: Path) -> None:
    """Each layer runs twice, and keeps less in between."""
    gradients = []
    for recomputed in (False, True):
        model = load_policy(str(folder), gradient_checkpointing=recomputed)
        assert recomputes(model) == recomputed
        calls: list[int] = []
        layer = next(module for module in model.modules() if isinstance(module, GradientCheckpointingLayer))
        next(layer.children()).register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        (rows,) = micro_batches([Group(PROMPT, [[9, 10], [11]])], token_budget=100)
        calls.clear()
        Scorer(model)(rows).logp.sum().backward()
        assert len(calls) == 1 + recomputed
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    kept, again = gradients
    assert kept.keys() == again.keys()
    for name, gradient in kept.items():
        torch.testing.assert_close(gradient, again[name], atol=1e-5, rtol=1e-4)


def test_recomputing_twice_is_recomputing(folder: Path) -> None:
    model = load_policy(str(folder), gradient_checkpointing=True)
    kinds = [type(module) for module in model.modules()]
    checkpoint_activations(model)
    assert kinds == [type(module) for module in model.modules()]


def test_adapters_keep_the_layers_recomputed(folder: Path) -> None:
    assert recomputes(load_policy(str(folder), gradient_checkpointing=True, lora=Lora(2)))


def test_models_without_such_layers_are_refused() -> None:
    class Flat(PreTrainedModel):
        pass

    with pytest.raises(UserError, match="gradient_checkpointing: Flat"):
        checkpoint_activations(Flat(PreTrainedConfig()))
