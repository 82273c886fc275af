"""Weights laid out for the products of decoding, while a model samples on a CPU.

A decode step multiplies every weight with one row for each completion. PyTorch's product brings a weight into the
layout of oneDNN's kernels each time: next to nothing beside hundreds of rows, but a third of the time beside 32. Here
it is done once, by the operators that PyTorch's compiler uses for models that no longer change.
"""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.cpu.kernels import has_bf16_kernels, own_fp32_kernels
from rlhf.tensors import in_fp32

SMALLEST = 2**16  # numbers of a weight; smaller ones stay in the processor's cache, and a layout gains nothing
FEWEST_ROWS = 8  # one row is multiplied at the speed of memory in any layout

type Project = Callable[[Tensor], Tensor]  # last hidden states (n, d) to logits (n, v), both in fp32
type Product = Callable[[Tensor], Tensor]  # (n, d) to (n, outputs)


def projection(model: PreTrainedModel) -> Project:
    """The vocabulary projection of a model, in fp32 whatever the precision of the backbone; see `token_logp`."""
    head: Any = model.get_output_embeddings()

    def project(state: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        with torch.autocast(state.device.type, enabled=False):
            return in_fp32(state.float(), head.weight.T)

    return project


@contextmanager
def packed(model: PreTrainedModel, *, rows: int) -> Generator[Project]:
    """Have the large linear layers of a model on a CPU multiply weights that are laid out once, at the start.

    Under autocast the layout is in half precision. Everything else, adapters too, is computed as before. The copies
    take `bytes_of_packed` while it lasts; the model's weights are not touched.

    Args:
        rows: completions decoded together.

    Yields:
        The vocabulary projection.
    """
    layers = layers_to_pack(model, rows=rows)
    project = projection(model)
    head = model.get_output_embeddings()
    try:
        for layer in layers:
            if layer is head:
                project = packed_projection(layer)
            else:
                layer.__dict__["forward"] = product([layer], precision() or layer.weight.dtype)
        with own_fp32_kernels() if layers else nullcontext():
            yield project
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def precision() -> torch.dtype | None:
    """Half precision under autocast; None: that of the weights."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


def layers_to_pack(model: PreTrainedModel, *, rows: int) -> list[nn.Linear]:
    """The large linear layers, if PyTorch has the operators here, and fast kernels for the precision."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    can_pack = on_cpu and torch.backends.mkldnn.is_available() and (precision() is None or has_bf16_kernels())
    return _large_layers(model) if can_pack and rows >= FEWEST_ROWS else []


def packed_projection(head: nn.Linear) -> Project:
    """The vocabulary projection with its matrix laid out now, in half precision under autocast.

    Half precision rounds a logit of 20 by up to 0.06. Softmax sees differences alone, so what all logits have in common
    is left out: the mean row of the matrix, and the logarithm of the number of tokens, near which the logits of likely
    tokens then are. Thereby they are small, and hardly rounded.
    """
    half = precision()
    if half is None:
        return product([head], torch.float32)
    weight = head.weight.detach().float()
    weight = (weight - weight.mean(0)).to(half)
    multiply = _multiplication(weight, torch.full((len(weight),), -math.log(len(weight)), dtype=half))
    return lambda state: multiply(state).float()


def product(layers: Sequence[nn.Linear], dtype: torch.dtype) -> Product:
    """What the layers compute of one input, side by side, in `dtype`, with their weights laid out now."""
    weights = [layer.weight.detach().to(dtype) for layer in layers]
    biases = [layer.bias.detach().to(dtype) for layer in layers if layer.bias is not None]
    weight = torch.cat(weights) if len(weights) > 1 else weights[0]
    return _multiplication(weight, torch.cat(biases) if biases else None)


def _multiplication(weight: Float[Tensor, "o d"], bias: Float[Tensor, " o"] | None) -> Product:
    layout = torch.ops.mkldnn._reorder_linear_weight(weight)

    def multiply(x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x.to(weight.dtype), layout, bias, "none", [], "")

    return multiply


def bytes_of_packed(model: PreTrainedModel, *, width: int) -> int:
    """What the copies take; `width`: bytes of a number, 2 under autocast."""
    return sum(width * layer.weight.numel() for layer in _large_layers(model))


def _large_layers(model: nn.Module) -> list[nn.Linear]:
    """Plain linear layers: none whose weight is quantized or shared out among processes."""
    plain = [layer for layer in model.modules() if type(layer) is nn.Linear and type(layer.weight) is nn.Parameter]
    return [layer for layer in plain if layer.weight.numel() >= SMALLEST]
