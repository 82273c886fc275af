"""Policies: loaded, with adapters or without, in which attention and precision. The one place of precision.

Precision: master weights and optimizer state are fp32; compute is bf16 autocast where the hardware has it; log-softmax,
losses and heads are fp32. (A bf16 weight of size 0.02 cannot move by an Adam step of 1e-6.)
"""

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.models.architecture import refuse_lookahead, refuse_other_heads, refuse_unknown_words
from rlhf.models.frozen import store_in_bf16
from rlhf.models.loading import Source, find_model, load_weights
from rlhf.models.lora import Lora, add_lora
from rlhf.models.names import EMBEDDED, EMBEDDED_JUDGE, SMOLLM2, refuse_reward_model
from rlhf.models.recomputing import checkpoint_activations
from rlhf.models.tokenizer import load_tokenizer

__all__ = [
    "EMBEDDED",
    "EMBEDDED_JUDGE",
    "SMOLLM2",
    "Source",
    "checkpoint_activations",
    "choose_attention",
    "choose_precision",
    "find_model",
    "load",
    "load_frozen",
    "load_policy",
    "load_tokenizer",
]


def load(
    name: str, *, key: str = "model_name", tokenizer: PreTrainedTokenizerBase | None = None, **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """`load_policy`, and the tokenizer (unless it is there already), none of whose tokens is one that the model has no
    row for."""
    tokenizer = tokenizer or load_tokenizer(name, key=key)
    model = load_policy(name, key=key, **options)
    refuse_unknown_words(model, tokenizer, f"{key}: '{name}'")
    return model, tokenizer


@torch.no_grad()
def move_towards(reference: nn.Module, policy: nn.Module, *, mix: float) -> None:
    """reference = (1 - mix) * reference + mix * policy.

    Gorbatovski et al., "Learn Your Reference Model for Real Good Alignment" (TR-DPO), 2024, arXiv 2404.09656.
    """
    for of_reference, of_policy in zip(reference.parameters(), policy.parameters(), strict=True):
        # With low_memory the policy is stored in bf16; with offload_reference it is on another device.
        of_reference.lerp_(of_policy.to(of_reference), mix)


def load_policy(
    name: str,
    *,
    attention: str = "sdpa",
    lora: Lora | None = None,
    gradient_checkpointing: bool = False,
    key: str = "model_name",
) -> PreTrainedModel:
    """A causal language model in fp32, ready to train: in evaluation mode, in which it stays.

    Training mode would add nothing but dropout, and a policy with dropout is another one than the policy that sampled.

    Raises:
        UserError: if it cannot be read as it is (see `load_weights`), a token sees later ones, or its log-probabilities
            are not those of hidden state times output matrix.
    """
    source = find_model(name, key=key)
    refuse_reward_model(Path(source.path), source.label)
    model = load_weights(
        AutoModelForCausalLM, source, attention=attention, look=partial(refuse_lookahead, source.label)
    )
    refuse_other_heads(model, source.label)
    if gradient_checkpointing:
        checkpoint_activations(model)
    if lora is not None:
        add_lora(model, lora)
    return model


def load_frozen(name: str, *, precision: str) -> PreTrainedModel:
    """A policy that is not trained, such as a reference; in bf16 with half the weights' memory (see `frozen.py`)."""
    model = load_policy(name).requires_grad_(False)
    if precision == "bf16":
        store_in_bf16(model)
    return model


def choose_attention(wanted: str, device: torch.device) -> str:
    """`flash` if its package is there and can work, else PyTorch's SDPA, which carries FlashAttention on CUDA."""
    if wanted != "flash":
        return wanted
    if device.type == "cuda" and find_spec("flash_attn") is not None:
        try:
            import flash_attn  # noqa: F401 # ty: ignore[import-not-found] - an optional extra
        except ImportError as error:
            print(f"attention: flash-attn is installed but broken ({error}); using SDPA")
            return "sdpa"
        return "flash_attention_2"
    print("attention: flash-attn is not installed, or this is no CUDA device; using SDPA")
    return "sdpa"


def choose_precision(wanted: str, device: torch.device) -> str:
    """`bf16` or `fp32`. auto: bf16 where the hardware multiplies it natively.

    Raises:
        UserError: bf16 is asked for where it cannot be had, not even slowly.
    """
    if wanted == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError("precision: this CUDA device has no bf16", hint="Use --precision fp32 or auto.")
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else "fp32"
