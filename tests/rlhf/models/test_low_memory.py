"""All weights trained in little memory: what stochastic rounding keeps, what is stored, and that a run resumes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from torch import nn
from transformers import AutoModelForSequenceClassification

from rlhf.config.trainer import TrainerConfig
from rlhf.models.low_memory import store_trained_in_bf16
from rlhf.optimizer import make_optimizer


def moved(weight: nn.Parameter, steps: int) -> float:
    """The mean move of weights that all have the gradient 1: each step of Adam is the learning rate."""
    before = weight.detach().float().mean().item()
    optimizer = make_optimizer(nn.ParameterList([weight]), lr=1e-6, betas=(0.9, 0.999), weight_decay=0.0)
    for _ in range(steps):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    return weight.detach().float().mean().item() - before


def test_small_steps_move_a_bf16_weight_as_far_as_in_fp32() -> None:
    """0.02 has its neighbours 1.2e-4 away in bf16. 50 steps of 1e-6 in 65,536 weights: the mean's standard error is
    1.2e-4 * sqrt(0.4 * 0.6) / 256 = 2.3e-7."""
    torch.manual_seed(0)
    start = torch.full((256, 256), 0.02).bfloat16()
    in_fp32 = moved(nn.Parameter(start.float()), steps=50)
    at_random = moved(nn.Parameter(start.clone()), steps=50)
    assert in_fp32 == pytest.approx(-5e-5, rel=0.01)
    assert at_random == pytest.approx(in_fp32, abs=1e-6)
    plain = (start.float() - 1e-6).bfloat16()
    assert torch.equal(plain, start), "rounded to the nearest, no step is seen"


def test_moments_take_a_byte_each() -> None:
    weight = nn.Parameter(torch.randn(256, 256).bfloat16())
    optimizer = make_optimizer(nn.ParameterList([weight]), lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0)
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    state = optimizer.state[weight]
    assert state["exp_avg"].codes.dtype == state["exp_avg_sq"].codes.dtype == torch.uint8


def test_matrices_are_bf16_and_norms_fp32() -> None:
    model = AutoModelForSequenceClassification.from_config(tiny_model("qwen3").config)
    store_trained_in_bf16(model)
    precision = {name: weight.dtype for name, weight in model.named_parameters()}
    assert precision.pop("score.weight") == torch.float32
    matrices = {name for name, weight in model.named_parameters() if weight.ndim >= 2} - {"score.weight"}
    assert {name for name, dtype in precision.items() if dtype == torch.bfloat16} == matrices
    assert model.get_input_embeddings()(torch.tensor([1])).dtype == torch.float32


def test_a_resumed_optimizer_rounds_as_one_that_was_never_interrupted(tmp_path: Path) -> None:
    def optimizer_of(weight: nn.Parameter) -> torch.optim.Optimizer:
        return make_optimizer(nn.ParameterList([weight]), lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01)

    def take(weight: nn.Parameter, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            weight.grad = torch.sin(torch.arange(weight.numel()) + step).reshape(weight.shape).bfloat16()
            optimizer.step()

    start = torch.linspace(-0.1, 0.1, 256 * 64).reshape(256, 64).bfloat16()
    straight = nn.Parameter(start.clone())
    take(straight, optimizer_of(straight), range(4))

    stopped = nn.Parameter(start.clone())
    first = optimizer_of(stopped)
    take(stopped, first, range(2))
    torch.save({"weight": stopped.data, "optimizer": first.state_dict()}, tmp_path / "checkpoint.pt")
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.rand(7)  # other random numbers in between
    resumed = nn.Parameter(saved["weight"])
    second = optimizer_of(resumed)
    second.load_state_dict(saved["optimizer"])
    take(resumed, second, range(2, 4))
    assert torch.equal(resumed, straight)


def test_no_random_number_of_the_run_is_taken() -> None:
    weight = nn.Parameter(torch.randn(64, 64).bfloat16())
    weight.grad = torch.randn_like(weight)
    state = torch.get_rng_state()
    make_optimizer(nn.ParameterList([weight]), lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0).step()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"lora_rank": 8}, "low_memory trains all weights, and lora_rank few"),
        ({"precision": "fp32"}, "low_memory computes in bf16"),
        ({"fsdp": True}, "fsdp cannot divide moments in 8 bits"),
    ],
)
def test_what_low_memory_does_not_go_with_is_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        TrainerConfig(**{"max_steps": 1, "low_memory": True, "precision": "bf16"} | settings)
    TrainerConfig(max_steps=1, low_memory=True, precision="bf16")
