"""Ratios and importance weights, by hand."""

import math

import pytest
import torch

from policy_gradients.ratios import importance_weight, sequence_ratio, token_ratio


def test_importance_by_hand() -> None:
    """pi / sampler = 2, 1/10, 10 and, where the mask is False, 1. Above the cap of 2.5: 2.5, or 0; below, no bound.
    Never a gradient."""
    logp = torch.tensor([[0.4, 0.02, 0.2, 0.9]]).log().requires_grad_()
    sampler = torch.tensor([[0.2, 0.2, 0.02, 0.1]]).log()
    mask = torch.tensor([[True, True, True, False]])
    cut = importance_weight(logp, sampler, mask, correction="truncate", cap=2.5)
    dropped = importance_weight(logp, sampler, mask, correction="mask", cap=2.5)
    assert cut[0].tolist() == pytest.approx([2, 0.1, 2.5, 1], rel=1e-5)
    assert dropped[0].tolist() == pytest.approx([2, 0.1, 0, 1], rel=1e-5)
    assert not cut.requires_grad
    assert not dropped.requires_grad


@pytest.mark.parametrize("ratio", [token_ratio, sequence_ratio])
@pytest.mark.parametrize("gap", [1e3, -1e3])
def test_far_ratios_have_no_gradient(ratio, gap: float) -> None:
    """Clamped before the exp: exp(20) at most, and a gradient of 0, not inf or nan."""
    logp = torch.full((2, 3), gap, requires_grad=True)
    found = ratio(logp, torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool))
    found.sum().backward()
    torch.testing.assert_close(found, torch.full((2, 3), math.exp(math.copysign(20, gap))))
    assert logp.grad is not None
    assert not logp.grad.any()


def test_sequence_ratio_by_hand() -> None:
    """Log-ratios (0.3, 0.1) and (0.6): means 0.2 and 0.6, whatever stands at padding; each token moves its share."""
    logp = torch.tensor([[-0.7, -0.9], [-0.4, 55.0]], requires_grad=True)
    mask = torch.tensor([[True, True], [True, False]])
    ratio = sequence_ratio(logp, torch.full((2, 2), -1.0), mask)
    assert ratio[:, 0].tolist() == pytest.approx([math.exp(0.2), math.exp(0.6)])
    ratio[:, 0].sum().backward()
    assert logp.grad is not None
    assert logp.grad[0].tolist() == pytest.approx([math.exp(0.2) / 2] * 2)
    assert logp.grad[1].tolist() == pytest.approx([math.exp(0.6), 0])


EVERYWHERE = torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize("ratio", [token_ratio, sequence_ratio])
@pytest.mark.parametrize("gap", [-1e3, -21.0, -20.0, -19.0, 0.0, 19.0, 20.0, 21.0, 1e3])
def test_log_ratios_are_cut_at_20_nats_either_way(ratio, gap: float) -> None:
    found = ratio(torch.full((2, 3), gap), torch.zeros(2, 3), EVERYWHERE).log()
    torch.testing.assert_close(found, torch.full((2, 3), max(-20.0, min(20.0, gap))), atol=1e-4, rtol=0)


@pytest.mark.parametrize("ratio", [token_ratio, sequence_ratio])
def test_only_tokens_that_count_move_a_ratio(ratio) -> None:
    """What stands behind the end, even nan, is not read; a completion without a token has ratio 1."""
    logp = torch.tensor([[-1.0, 5.0, float("nan")], [7.0, 7.0, 7.0]])
    mask = torch.tensor([[True, False, False], [False, False, False]])
    found = ratio(logp, torch.full((2, 3), -1.5), mask)
    assert found[0, 0].item() == pytest.approx(torch.tensor(0.5).exp().item())
    assert found[1].tolist() == [1.0] * 3


@pytest.mark.parametrize(("correction", "above"), [("truncate", 2.0), ("mask", 0.0)])
def test_a_weight_at_the_cap_stays(correction: str, above: float) -> None:
    """Weights 2 and 2.001 with a cap of 2."""
    logp = torch.tensor([[2.0, 2.001]]).log()
    found = importance_weight(logp, torch.zeros(1, 2), EVERYWHERE[:1, :2], correction=correction, cap=2.0)
    assert found[0].tolist() == pytest.approx([2.0, above])
