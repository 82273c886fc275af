"""Weights, gradients and optimizer state divided between processes: PyTorch's FSDP2.

A process keeps 1 / N of every weight, of its gradient and of its moments. While it learns from a batch, the layers
gather their weights in turn, each for as long as it computes. Everything else (sampling, scoring, evaluation, saving)
reads the whole model, as in one process: its weights are gathered behind each optimizer step, and let go of when the
next batch is learned. With all weights trained in fp32, bytes a weight:

    while learning   16 / N, and the weights and the gradient of a layer
    otherwise        12 / N, and 4 of the whole model

Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", 2023, arXiv 2304.11277.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


class Sharded(nn.Module):
    """A module whose forward pass is that of `whole`, computed from shards.

    It is called as often in every process: the layers exchange their weights in each pass, forward and backward.

    Args:
        whole: stays as it is for those who hold it or its parts, but has no weights while a batch is learned.
    """

    def __init__(self, whole: nn.Module, accelerator: Accelerator):
        super().__init__()
        self._whole = [whole]  # in a list, so that its weights are not this module's
        self._accelerator = accelerator
        self.module = copy.deepcopy(whole)
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        for layer in layers_of(self.module):
            fully_shard(layer, mesh=mesh)
        fully_shard(self.module, mesh=mesh)
        whole.register_load_state_dict_post_hook(lambda *_: self._take_from_whole())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self._accelerator.autocast():
            return self.module(*args, **kwargs)

    def _pairs(self) -> Iterator[tuple[nn.Parameter, DTensor]]:
        """Each weight of the whole model, and what this process has of it."""
        yield from zip(self._whole[0].parameters(), self.module.parameters(), strict=True)  # ty: ignore[invalid-yield]

    @torch.no_grad()
    def gather_whole(self) -> None:
        """Give the whole model the weights as they are now."""
        for weight, shard in self._pairs():
            weight.data = shard.full_tensor()

    def let_go_of_whole(self) -> None:
        """Free the weights of the whole model, until they are gathered again."""
        for weight, _ in self._pairs():
            weight.data = weight.data.new_empty(0)

    @torch.no_grad()
    def _take_from_whole(self) -> None:
        for weight, shard in self._pairs():
            shard.to_local().copy_(_shard_like(weight, shard).to_local())

    def take_over(self, optimizer: torch.optim.Optimizer) -> None:
        """Make an optimizer of the whole model's weights one of the shards. Its state is saved whole, and divided when
        it is loaded, so that checkpoints are those of one process."""
        shards = dict(self._pairs())
        for group in optimizer.param_groups:
            group["params"] = [shards[weight] for weight in group["params"]]
        optimizer.register_state_dict_post_hook(self._gather_state)
        optimizer.register_load_state_dict_pre_hook(_divide_state)

    def _gather_state(self, _: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        """In all processes together; only the main one keeps what was gathered, in the memory of the processor."""
        keeps = self._accelerator.is_main_process
        state: dict[int, dict[str, Any]] = {}
        for number, values in state_dict["state"].items():
            state[number] = {}
            for name, value in values.items():
                whole = value.full_tensor() if isinstance(value, DTensor) else value
                state[number][name] = whole.cpu() if keeps else None
        return {**state_dict, "state": state}


def layers_of(module: nn.Module) -> list[nn.Module]:
    """The layers of a transformer: the longest list of modules in it; none where there is no list."""
    lists = [list(part) for part in module.modules() if isinstance(part, nn.ModuleList)]
    return max(lists, key=len, default=[])


def _divide_state(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    shards = [shard for group in optimizer.param_groups for shard in group["params"]]
    state = {
        number: {
            name: _shard_like(value, shards[number]) if value.shape == shards[number].shape else value
            for name, value in values.items()
        }
        for number, values in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


def _shard_like(whole: Tensor, shard: DTensor) -> DTensor:
    """This process's part of a tensor that every process has, divided as `shard` is."""
    whole = whole.detach().to(shard.device)
    return distribute_tensor(whole, shard.device_mesh, shard.placements, src_data_rank=None)
