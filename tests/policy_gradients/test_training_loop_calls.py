"""What the training loop hands to the parts that it calls: to the critic, to each optimizer step, to the weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_training_loop import (
    _nothing_but_steps,  # noqa: F401 a fixture of every test here
    records,
)
from torch import Tensor

from policy_gradients.algorithms import algorithms


def test_the_critic_is_taught_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a completion's last token the target is its reward: the advantage before whitening, plus the value."""
    seen = []

    def spy(_learner, batch, _part: range, value: Tensor, target: Tensor) -> tuple[float, float]:
        seen.append((batch, value, target))
        return 0.0, 0.0

    monkeypatch.setattr("policy_gradients.critic.CriticLearner.update", spy)
    records(tmp_path / "run", "--algorithm", "ppo", "--max_steps", "1", "--kl_coef", "0")
    ((batch, value, target),) = seen
    assert not value.any(), "a new critic's"
    at_the_end = target[torch.arange(len(target)), batch.length - 1]
    torch.testing.assert_close(at_the_end, batch.reward.flatten())


def test_each_part_of_a_batch_has_its_own_advantages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two optimizer steps on a batch of 16 completions, numbered: together they see each once."""
    grpo, seen = algorithms["grpo"], []

    def surrogate(logp: Tensor, ratio: Tensor, adv: Tensor, **_) -> Tensor:
        seen.extend(adv[:, 0].tolist())
        return -adv * ratio + 0 * logp

    def numbered(reward: Tensor) -> Tensor:
        return torch.arange(float(reward.numel())).view_as(reward)

    monkeypatch.setitem(algorithms, "grpo", replace(grpo, advantage=numbered, surrogate=surrogate))
    records(tmp_path / "run", "--algorithm", "grpo", "--max_steps", "1", "--steps_per_batch", "2")
    assert sorted(seen) == list(range(16))
    assert sorted(seen[:8]) == list(range(8))


def test_importance_weights_leave_to_the_ratio_what_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They weigh the old policy against the sampler, on each pass the same; what has moved since is in the ratio.

    For a batch that has waited, the old policy is the one that sampled it, and no weight is left to apply.
    """
    from policy_gradients.ratios import importance

    seen: list[tuple[Tensor, Tensor]] = []

    def spy(moved: Tensor, logp_sampler: Tensor, mask: Tensor, **how) -> Tensor:
        seen.append((moved.detach().clone(), logp_sampler))
        return importance(moved, logp_sampler, mask, **how)

    monkeypatch.setattr("policy_gradients.ratios.importance", spy)
    shared = ["--algorithm", "grpo", "--importance", "truncate", "--lr", "1e-3", "--token_budget", "100000"]
    records(tmp_path / "passes", *shared, "--max_steps", "1", "--epochs_per_batch", "2")
    (first, _), (second, _) = seen
    assert torch.equal(first, second)
    seen.clear()
    records(tmp_path / "stale", *shared, "--max_steps", "2", "--staleness", "1")
    assert len(seen) == 2
    for old, sampler in seen:
        assert torch.equal(old, sampler)
