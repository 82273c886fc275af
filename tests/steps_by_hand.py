"""What a training loop is compared with: every optimizer step recomputed by itself, one plain row a completion.

A loop under test runs as a user would run it, on a model of 20 000 weights; each optimizer step that it takes is kept,
with the weights before it. A test computes the gradient at these weights from the loss's formula, with autograd.
"""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rlhf import optimizer
from rlhf.embedded.make import character_tokenizer, new_model


@dataclass
class Step:
    module: nn.Module
    before: dict[str, Tensor]
    grad: dict[str, Tensor]
    after: dict[str, Tensor]
    lr: float
    max_grad_norm: float

    def at(self) -> nn.Module:
        """The module as it was before the step."""
        module = copy.deepcopy(self.module)
        module.load_state_dict(self.before, strict=False)
        module.zero_grad()
        return module


def record_steps(monkeypatch: pytest.MonkeyPatch, *places: str) -> list[Step]:
    """The optimizer steps to come, in their order; `places`: from where `optimizer_step` is called."""
    steps: list[Step] = []
    plain = optimizer.optimizer_step

    def weights(module: nn.Module) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in module.named_parameters()}

    def spy(accelerator, module: nn.Module, optimizer, *, lr: float, max_grad_norm: float) -> float:
        model = getattr(module, "model", module)  # of a scorer; a critic is one by itself
        before = weights(model)
        grad = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        norm = plain(accelerator, module, optimizer, lr=lr, max_grad_norm=max_grad_norm)
        steps.append(Step(model, before, grad, weights(model), lr, max_grad_norm))
        return norm

    for place in places:
        monkeypatch.setattr(f"{place}.optimizer_step", spy)
    return steps


def save_tiny(folder: Path, *, seed: int = 0) -> Path:
    """A model of one token a character, with its tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        model = new_model(**sizes, num_attention_heads=4, num_key_value_heads=2)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.15) if parameter.ndim > 1 else nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    return folder


def token_logp(model: nn.Module, prompt: Sequence[int], tokens: Sequence[int], temperature: float = 1.0) -> Tensor:
    """log pi of each token of a completion (t,), from a plain row and the model's own logits."""
    ids = torch.tensor([[*prompt, *tokens]])
    logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float() / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]


def norm_of(step: Step) -> float:
    """Of the whole gradient, before clipping."""
    return math.sqrt(sum(float(grad.double().square().sum()) for grad in step.grad.values()))


def check_gradient(step: Step, module: nn.Module, loss: Tensor) -> None:
    """The step's gradient is that of `loss`, which was computed with `module`; relative to the whole gradient."""
    loss.backward()
    difference, size = 0.0, 0.0
    for name, parameter in module.named_parameters():
        if name in step.grad:
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            difference += float((step.grad[name] - grad).double().square().sum())
            size += float(grad.double().square().sum())
    assert size > 0
    assert math.sqrt(difference / size) < 2e-4


def check_adamw(steps: Sequence[Step], *, betas: tuple[float, float], weight_decay: float) -> None:
    """Each step, from its gradient: clipped by the norm of all, AdamW with bias correction, decay of matrices alone."""
    mean: Mapping[str, Tensor] = {name: torch.zeros_like(g) for name, g in steps[0].grad.items()}
    square: Mapping[str, Tensor] = {name: torch.zeros_like(g) for name, g in steps[0].grad.items()}
    for k, step in enumerate(steps, 1):
        if k > 1:
            assert all(torch.equal(step.before[name], steps[k - 2].after[name]) for name in step.before)
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in step.grad.values()))
        for name, g in step.grad.items():
            g = g * min(1.0, step.max_grad_norm / (norm + 1e-6))
            mean[name].mul_(betas[0]).add_((1 - betas[0]) * g)
            square[name].mul_(betas[1]).add_((1 - betas[1]) * g * g)
            m, v = mean[name] / (1 - betas[0] ** k), square[name] / (1 - betas[1] ** k)
            decayed = step.before[name] * (1 - step.lr * weight_decay * (g.ndim >= 2))
            torch.testing.assert_close(step.after[name], decayed - step.lr * m / (v.sqrt() + 1e-8), atol=2e-6, rtol=0)


def k3(logp: Tensor, logp_ref: Tensor) -> Tensor:
    return (logp_ref - logp).exp() - 1 - (logp_ref - logp)


def check_log(run: Path, headline: Sequence[str], *, steps: Sequence[Step]) -> None:
    """Every metric of a run is described, the headline is among them; rate and norm are those of the last update."""
    provenance = json.loads((run / "provenance.json").read_text())
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = {key for record in records for key in record} - {"step", "wall_s"}
    assert logged <= set(provenance["metrics"])
    assert provenance["headline"] == list(headline)
    assert set(headline) <= logged
    of_each = len(steps) // len(records)
    for record, step in zip(records, steps[of_each - 1 :: of_each], strict=True):
        assert record["optim/lr"] == step.lr
        assert math.isclose(record["optim/grad_norm"], norm_of(step), rel_tol=1e-3)
