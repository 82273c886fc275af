"""All weights trained in little memory: bf16 weights with stochastic rounding, and AdamW's moments in 8 bits.

6 bytes a weight (2 of it, 2 of its gradient, 2 of its moments) instead of 16. A bf16 number has 8 significant bits: of
size 0.02 it has neighbours 1e-4 away, and a step of 1e-6 rounds back to it every time. Rounded to either neighbour at
random, with the probability that makes the mean exact, 100 such steps move it as far as in fp32, in expectation.

    w' = the bf16 neighbour above w - step with probability (w - step - below) / (above - below), else the one below

Gradients are bf16 too: micro-batches add up in bf16. torchao has rounding and moments; the moments are those of
Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2021, arXiv 2110.02861, in blocks of 256 weights.
"""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torchao.optim import AdamW8bit

from rlhf.models.frozen import in_fp32_states, reward_heads

SEED = 2**31 - 1  # of the rounding; the number of the step is added


class LowMemoryAdamW(AdamW8bit):
    """AdamW of bf16 weights and 8-bit moments. fp32 weights (norms, biases, reward heads) step as in AdamW.

    Rounding is a function of the number of the step, in all processes alike: a resumed run rounds as one that was never
    interrupted, and copies of the weights stay equal.
    """

    def __init__(self, params: Any, *, lr: float, betas: tuple[float, float], eps: float):
        super().__init__(params, lr=lr, betas=betas, eps=eps, bf16_stochastic_round=True)

    @torch.no_grad()
    def step(self, closure=None):  # torchao and torch annotate it in different ways
        taken = max((int(of["step"]) for of in self.state.values()), default=0)
        weights = [weight for group in self.param_groups for weight in group["params"]]
        for group in self.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]))  # a number would be compiled into the step
        with _seeded(SEED + taken, weights[0].device), _compiled_on(weights[0].device):
            return super().step(closure)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Generator[None]:
    """Random numbers of this seed, while it lasts."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _compiled_on(device: torch.device) -> AbstractContextManager[Any]:
    """On a CPU operation by operation: torchao compiles its step, which takes a C++ compiler there."""
    return torch.compiler.set_stance("default" if device.type == "cuda" else "force_eager")


@torch.no_grad()
def store_trained_in_bf16(model: nn.Module) -> None:
    """Store the matrices of a model that is trained under bf16 autocast in bf16, its vocabulary projection too.

    Norms, biases and the heads of reward models stay in fp32: they are small. Embeddings give their states in fp32.
    """
    spared = {id(weight) for head in reward_heads(model) for weight in head.parameters()}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            if weight.ndim >= 2 and id(weight) not in spared:
                weight.data = weight.data.to(torch.bfloat16)
                if isinstance(module, nn.Embedding):
                    module.register_forward_hook(in_fp32_states)
