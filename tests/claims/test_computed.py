"""What the computed claims compute, beside closed forms."""

import pytest
import torch

from claims.computed.enumerated import Enumerated
from claims.computed.kl_gradients import at_distance, errors, exact, kl


def test_the_exact_gradients_of_the_kl() -> None:
    """That of whole completions is the derivative along a direction; of next tokens it holds the visits fixed."""
    policy, theta_ref = Enumerated(3), Enumerated(8).theta.detach()
    direction = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    of_completions, of_tokens = exact(policy, theta_ref)
    values = []
    for step in (1e-5, -1e-5):
        moved = Enumerated(3)
        moved.theta = (policy.theta.detach() + step * direction).requires_grad_()
        values.append(kl(moved, theta_ref))
    assert float(of_completions @ direction.flatten()) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)
    last = [i for i, prefix in enumerate(policy.prefixes) if len(prefix) == 2]  # nothing follows but one token
    both = (one.view(7, 3)[last] for one in (of_completions, of_tokens))
    torch.testing.assert_close(*both)
    assert (of_completions - of_tokens).norm() > 0.01


def test_what_each_penalty_is_worth() -> None:
    found = errors(3, [0.003, 0.3])
    for distance in (0.003, 0.3):
        assert found["k2 in loss", distance]["error, next tokens"] == pytest.approx(0, abs=1e-9)
        assert found["ratio · k3 in loss", distance]["error, next tokens"] == pytest.approx(0, abs=1e-9)
        assert found["k1 in reward", distance]["error, completions"] == pytest.approx(0, abs=1e-9)
        assert found["k1 in loss", distance]["error, next tokens"] == pytest.approx(1)
    near, far = (found["k3 in loss", distance]["error, next tokens"] for distance in (0.003, 0.3))
    assert 0 < 3 * near < far
    assert found["k3 in reward", 0.003]["error, completions"] == pytest.approx(1, abs=0.1)


def test_a_reference_at_a_distance() -> None:
    policy = Enumerated(1)
    theta_ref = at_distance(policy, Enumerated(2).theta.detach(), 0.05)
    assert kl(policy, theta_ref) == pytest.approx(0.05)
