"""The KL reference: how its coefficient adapts, and how it follows the policy."""

import pytest
import torch
from tiny_models import tiny_model

from policy_gradients.config import PolicyGradientConfig
from policy_gradients.defaults import resolve
from policy_gradients.reference import Reference
from rlhf.models.lora import Lora, add_lora


def reference(**settings: float) -> Reference:
    policy, copy = tiny_model("llama", layers=1, seed=1), tiny_model("llama", layers=1)
    return Reference(policy, copy, resolve(PolicyGradientConfig(kl_coef=0.1, **settings)))


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
    it = reference(sync_reference_every=2, sync_reference_mix=0.25)
    before, its = ([p.clone() for p in model.parameters()] for model in (it.copy, it.policy))
    it.follow(1)
    assert all(torch.equal(a, b) for a, b in zip(it.copy.parameters(), before, strict=True))
    it.follow(2)
    for mine, a, b in zip(it.copy.parameters(), before, its, strict=True):
        torch.testing.assert_close(mine, 0.75 * a + 0.25 * b)
    assert all(torch.equal(a, b) for a, b in zip(it.policy.parameters(), its, strict=True))
    frozen = reference()
    frozen.follow(2)
    assert all(torch.equal(a, b) for a, b in zip(frozen.copy.parameters(), before, strict=True))


def test_with_adapters_the_reference_is_the_model_under_them() -> None:
    """No second model is there, and what the adapters have learned is not seen."""
    policy, plain = tiny_model("llama", layers=1), tiny_model("llama", layers=1)
    add_lora(policy, Lora(2))
    for p in policy.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.5)
    it = Reference(policy, None, resolve(PolicyGradientConfig(kl_coef=0.1, lora_rank=2)))
    ids = torch.tensor([[1, 2, 3]])
    with it.network() as network:
        torch.testing.assert_close(network(ids).logits, plain(ids).logits)
    assert not torch.allclose(policy(ids).logits, plain(ids).logits, atol=1e-2)


def test_with_adapters_the_reference_cannot_move() -> None:
    with pytest.raises(ValueError, match="what is under the adapters"):
        PolicyGradientConfig(kl_coef=0.1, lora_rank=2, sync_reference_every=2)
