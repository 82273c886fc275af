"""Offline, few threads, shapes checked, and models small enough to be exact about.

The import hook makes jaxtyping and beartype check every shape in a signature while tests run; it must be in place
before the first import of what it checks.
"""

import os

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import pytest
import torch
from jaxtyping import install_import_hook
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Olmo2Config, Olmo2ForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

# Modules with tensors in their signatures. Left out: configs (pydantic reads their annotations itself) and scripts.
CHECKED = [
    *(f"rlhf.{name}" for name in ("tensors", "kl", "aggregate", "groups", "scoring", "sampling", "models")),
    *(f"rlhf.{name}" for name in ("chat", "tasks", "arithmetic", "evaluation", "loop", "data")),
    *(f"policy_gradients.{name}" for name in ("advantages", "ratios", "surrogates", "algorithm", "algorithms")),
    *(f"policy_gradients.{name}" for name in ("resolve", "rewards", "rollout", "diagnostics")),
    *(f"instruction_tuning.{name}" for name in ("data", "demonstrations")),
]
install_import_hook(CHECKED, "beartype.beartype")

torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other
logging.set_verbosity_error()
logging.disable_progress_bar()

ARCHITECTURES = {
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 16}),
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "olmo2": (Olmo2ForCausalLM, Olmo2Config, {}),
}


def tiny_model(architecture: str, *, vocabulary: int = 100, layers: int = 2, seed: int = 0) -> nn.Module:
    """4 query heads on 2 key heads; weights N(0, 0.1), so that logits have a standard deviation of about 0.8."""
    model_class, config_class, particular = ARCHITECTURES[architecture]
    config = config_class(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        **particular,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.1) if parameter.ndim > 1 else nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="session", params=list(ARCHITECTURES))
def model(request: pytest.FixtureRequest) -> nn.Module:
    """Each architecture in turn: one norm on queries and keys, none, and norms behind the blocks."""
    return tiny_model(request.param)


@pytest.fixture(scope="session")
def qwen3() -> nn.Module:
    return tiny_model("qwen3")


@pytest.fixture(scope="session")
def small_vocabulary() -> nn.Module:
    """Few tokens, so that every outcome can be enumerated or counted."""
    return tiny_model("qwen3", vocabulary=6, layers=1)
