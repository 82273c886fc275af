"""Frozen weights: stored in bf16 wherever that changes no result, and the model that lies under its adapters.

Under autocast a matrix product rounds its weights to bf16 each time. Weights that never change can be rounded once and
stored so: the products are the same to the bit. The other weights (embeddings, vocabulary projection, norms) are read
in fp32, and are stored in bf16 only if they are bf16 numbers already, as in most published checkpoints.
"""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.models.architecture import HEADS


@torch.no_grad()
def store_in_bf16(model: nn.Module) -> None:
    """Store the frozen matrices of a model that computes under bf16 autocast in bf16, where no result changes.

    Biases and norms stay in fp32: they are small, and a norm of bf16 weights would round the states that pass it. For
    the same reason an embedding that is stored in bf16 still gives its states in fp32.
    """
    heads = _heads(model)
    for module in model.modules():
        is_product = isinstance(module, nn.Linear) and module not in heads
        for weight in module.parameters(recurse=False):
            if weight.requires_grad or weight.ndim < 2:
                continue
            rounded = weight.to(torch.bfloat16)
            if is_product or torch.equal(rounded.float(), weight.float()):
                weight.data = rounded
                if isinstance(module, nn.Embedding):
                    module.register_forward_hook(in_fp32_states)


def forget_storage(model: nn.Module) -> None:
    """Make an ordinary model of one that is stored in bf16, before it is handed on: embeddings give what they hold."""
    for module in model.modules():
        for key, hook in list(module._forward_hooks.items()):
            if hook is in_fp32_states:
                del module._forward_hooks[key]


def _heads(model: nn.Module) -> list[nn.Module]:
    """The layers on the last hidden states, which compute in fp32."""
    to_vocabulary = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    return [*reward_heads(model), *([] if to_vocabulary is None else [to_vocabulary])]


def reward_heads(model: nn.Module) -> list[nn.Module]:
    return [head for name in HEADS if (head := getattr(model, name, None)) is not None]


def in_fp32_states(_module: nn.Module, _inputs: tuple[Tensor, ...], states: Tensor) -> Tensor:
    """A forward hook of embeddings that are stored in bf16."""
    return states.float()


@contextmanager
def without_adapters(model: nn.Module) -> Generator[None]:
    """The model that LoRA adapters were put on: the reference of a policy that trains nothing else."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
