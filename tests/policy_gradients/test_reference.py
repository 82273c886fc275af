"""The KL reference: how its coefficient adapts, and how it follows the policy."""

import pytest
import torch
from tiny_models import tiny_model

from policy_gradients.config import PolicyGradientConfig
from policy_gradients.defaults import resolve
from policy_gradients.reference import Reference


def reference(**settings: float) -> Reference:
    return Reference(tiny_model("llama", layers=1), resolve(PolicyGradientConfig(kl_coef=0.1, **settings)))


@pytest.mark.parametrize(
    ("kl", "coef"), [(0.05, 0.1), (0.055, 0.101), (0.045, 0.099), (5.0, 0.102), (0.0, 0.098), (-1.0, 0.098)]
)
def test_kl_coef_adapts(kl: float, coef: float) -> None:
    """Target 0.05: a tenth more or less moves the coefficient by 1 %, and nothing by more than 2 %."""
    it = reference(kl_target=0.05)
    it.adapt(kl)
    assert it.coef == pytest.approx(coef)


def test_kl_coef_stays_without_a_target() -> None:
    it = reference()
    it.adapt(5.0)
    assert it.coef == 0.1


def test_the_reference_follows_every_few_steps() -> None:
    """Every second step, three quarters of itself and a quarter of the policy, which stays what it is."""
    it, policy = reference(sync_reference_every=2, sync_reference_mix=0.25), tiny_model("llama", layers=1, seed=1)
    before, its = ([p.clone() for p in model.parameters()] for model in (it.model, policy))
    it.follow(policy, 1)
    assert all(torch.equal(a, b) for a, b in zip(it.model.parameters(), before, strict=True))
    it.follow(policy, 2)
    for mine, a, b in zip(it.model.parameters(), before, its, strict=True):
        torch.testing.assert_close(mine, 0.75 * a + 0.25 * b)
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), its, strict=True))
    frozen = reference()
    frozen.follow(policy, 2)
    assert all(torch.equal(a, b) for a, b in zip(frozen.model.parameters(), before, strict=True))
