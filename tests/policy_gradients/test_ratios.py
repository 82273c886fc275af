"""Ratios of policies at their bounds, in nats: what is close to 0 is compared by its logarithm."""

import pytest
import torch

from policy_gradients.ratios import importance, sequence_ratio, token_ratio

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
    found = importance(logp, torch.zeros(1, 2), EVERYWHERE[:1, :2], correction=correction, cap=2.0)
    assert found[0].tolist() == pytest.approx([2.0, above])
