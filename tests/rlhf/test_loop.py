"""Learning rates, optimizer steps and the sharing of work."""

import math
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from rlhf.loop import NotFiniteError, check_finite, learning_rate, make_optimizer, optimizer_step, share


def rates(schedule: str, warmup: int, steps: int) -> list[float]:
    return [
        learning_rate(step, peak=8.0, warmup_steps=warmup, max_steps=steps, schedule=schedule) for step in range(steps)
    ]


def test_learning_rates_by_hand() -> None:
    """Warm-up over 4 steps in quarters; then 8 steps that would reach 0 one step after the last.

    cosine: (1 + cos(pi k/8)) / 2 of the peak, half of it in the middle.
    """
    assert rates("constant", 4, 6) == [2, 4, 6, 8, 8, 8]
    assert rates("constant", 0, 2) == [8, 8]
    assert rates("linear", 4, 12) == [2, 4, 6, 8, 8, 7, 6, 5, 4, 3, 2, 1]
    cosine = rates("cosine", 0, 8)
    assert cosine == pytest.approx([4 * (1 + math.cos(math.pi * k / 8)) for k in range(8)])
    assert cosine[4] == pytest.approx(4)
    assert 0 < cosine[7] < 0.5


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_learning_rates_stay_in_range(schedule: str) -> None:
    """Also where the warm-up is longer than the run, and behind its end."""
    for warmup, steps in ((0, 1), (5, 3), (3, 3), (2, 50)):
        assert all(0 < rate <= 8 for rate in rates(schedule, warmup, steps))
    past = learning_rate(99, peak=8.0, warmup_steps=0, max_steps=10, schedule=schedule)
    assert past == (8 if schedule == "constant" else 0) or schedule == "cosine"
    assert past >= 0


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def test_optimizer_step_clips_and_clears(accelerator: Accelerator) -> None:
    """A gradient of (3, 4) has norm 5; clipped to 1 it is (0.6, 0.8). The norm before clipping is returned.

    SGD with lr 0.5 moves the weight by -(0.3, 0.4).
    """
    model = nn.Linear(2, 1, bias=False)
    model.weight.data.zero_()
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    optimizer = torch.optim.SGD(model.parameters(), lr=99.0)
    assert optimizer_step(accelerator, model, optimizer, lr=0.5, max_grad_norm=1.0) == pytest.approx(5)
    torch.testing.assert_close(model.weight.data, torch.tensor([[-0.3, -0.4]]), atol=1e-5, rtol=0)
    assert model.weight.grad is None


def test_a_gradient_that_is_not_finite_stops_the_run(accelerator: Accelerator) -> None:
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    model.weight.grad = torch.tensor([[float("nan"), 1.0]])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(NotFiniteError, match="gradient norm is nan"):
        optimizer_step(accelerator, model, optimizer, lr=0.5, max_grad_norm=1.0)
    assert torch.equal(model.weight, before), "nothing was stepped"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_saves_its_batch(tmp_path, value: float) -> None:
    check_finite(torch.tensor(1.0), tmp_path, adv=torch.ones(2, 1))
    assert not list(tmp_path.iterdir())
    with pytest.raises(NotFiniteError):
        check_finite(torch.tensor(value), tmp_path, adv=torch.ones(2, 1))
    saved = torch.load(tmp_path / "not_finite.pt", weights_only=False)
    assert saved["adv"].tolist() == [[1], [1]]


def test_only_matrices_decay() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    model[0].weight.requires_grad_(True)
    optimizer = make_optimizer(model, lr=0.1, betas=(0.8, 0.9), weight_decay=0.01)
    by_decay = {
        decay: [p for g in optimizer.param_groups if g["weight_decay"] == decay for p in g["params"]]
        for decay in (0.01, 0.0)
    }
    assert [p.shape for p in by_decay[0.01]] == [(3, 2)]
    assert [p.ndim for p in by_decay[0.0]] == [1, 1, 1]
    model[0].weight.requires_grad_(False)
    frozen = make_optimizer(model, lr=0.1, betas=(0.8, 0.9), weight_decay=0.01)
    assert sum(len(group["params"]) for group in frozen.param_groups) == 3
    assert all(group["betas"] == (0.8, 0.9) for group in frozen.param_groups)


def test_new_weights_learn_faster() -> None:
    """AdamW's first step is lr * sign(gradient), so a new weight moves `new_factor` times as far as the others."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    new = list(model[1].parameters())
    optimizer = make_optimizer(model, lr=1.0, betas=(0.9, 0.9), weight_decay=0.0, new=new, new_factor=4.0)
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.ones(1, 2)).sum().backward()
    optimizer_step(Accelerator(cpu=True), model, optimizer, lr=0.01, max_grad_norm=1.0)
    moved = [float((p - b).abs().max()) for p, b in zip(model.parameters(), before, strict=True)]
    assert moved == pytest.approx([0.01, 0.01, 0.04, 0.04], rel=1e-4)


class Process(Accelerator):
    def __init__(self, index: int, count: int):
        self.state = SimpleNamespace(process_index=index, num_processes=count)


def test_shares_cover_everything_once() -> None:
    items = list(range(11))
    parts = [share(items, Process(i, 3)) for i in range(3)]
    assert sorted(item for part in parts for item in part) == items
    assert parts[1] == [1, 4, 7, 10]
