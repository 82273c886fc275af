"""Frozen weights in the processor's memory, which come to the GPU for the passes that read them.

A reference is read in one short phase of a step. In the others its place on the GPU serves for activations, gradients
and keys and values. What it costs is one copy of the weights over the bus in each phase that reads them; none goes
back, since nothing on the GPU changes them.
"""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def offload(model: nn.Module, device: torch.device) -> None:
    """Leave the weights of a frozen model in the processor's memory; its buffers, which are small, go to the device.

    The memory is pinned, where there is CUDA: from there a copy is two to three times as fast, and the processor does
    not wait for it.
    """
    for weight in model.parameters():
        weight.data = _pinned(weight.data.cpu())
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)


@contextmanager
def on_device(model: nn.Module, device: torch.device) -> Generator[None]:
    """A model that `offload` may have left elsewhere, on the device for the time of this block."""
    weights = list(model.parameters())
    at_home = [weight.data for weight in weights]
    for weight in weights:
        weight.data = _brought(weight.data, device)
    try:
        yield
    finally:
        for weight, home in zip(weights, at_home, strict=True):
            weight.data = home


def _brought(weight: Tensor, device: torch.device) -> Tensor:
    return weight.to(device, non_blocking=True)


def _pinned(weight: Tensor) -> Tensor:
    return weight.pin_memory() if torch.cuda.is_available() else weight
