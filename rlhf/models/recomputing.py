"""Gradient checkpointing: keep only the inputs of layers, and compute the rest again in the backward pass.

transformers' own runs in training mode alone, which also turns dropout on: then the log-probabilities that are trained
on are not those that were sampled from (0.06 nats a token with GPT-2's dropout of 0.1). This one does not ask for a
mode. Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, arXiv 1604.06174.
"""

from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from rlhf.errors import UserError


class _Recomputed(nn.Module):
    """Put in front of a layer's own class."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            return checkpoint(super().forward, *args, use_reentrant=False, **kwargs)
        return super().forward(*args, **kwargs)


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Recompute the layers of a model, in place.

    Raises:
        UserError: if its layers are not of the class by which transformers marks what can be recomputed.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(f"gradient_checkpointing: {type(model).__name__} has no layers that can be recomputed")
    for layer in layers:
        layer.__class__ = _recomputed(type(layer))


def recomputes(model: nn.Module) -> bool:
    """Whether `checkpoint_activations` was called on it."""
    return any(isinstance(module, _Recomputed) for module in model.modules())


@cache
def _recomputed(layer: type[nn.Module]) -> type[nn.Module]:
    """That class of layers, recomputed. By the same name, since FSDP and PEFT go by names."""
    return layer if issubclass(layer, _Recomputed) else type(layer.__name__, (_Recomputed, layer), {})
