"""Ratios and importance weights, by hand."""

import math

import pytest
import torch

from policy_gradients.ratios import completion_ratio, importance_weight, sequence_ratio, strayed, token_ratio


def test_importance_by_hand() -> None:
    """pi / sampler = 2, 1/10, 10 and, where the mask is False, 1. Above the cap of 2.5: 2.5, or 0; below, no bound.
    Never a gradient."""
    logp = torch.tensor([[0.4, 0.02, 0.2, 0.9]]).log().requires_grad_()
    sampler = torch.tensor([[0.2, 0.2, 0.02, 0.1]]).log()
    mask = torch.tensor([[True, True, True, False]])
    bounds = {"level": "token", "floor": 0.0, "cap": 2.5}
    cut = importance_weight(logp, sampler, mask, correction="truncate", **bounds)
    dropped = importance_weight(logp, sampler, mask, correction="mask", **bounds)
    assert cut[0].tolist() == pytest.approx([2, 0.1, 2.5, 1], rel=1e-5)
    assert dropped[0].tolist() == pytest.approx([2, 0.1, 0, 1], rel=1e-5)
    assert not cut.requires_grad
    assert not dropped.requires_grad


@pytest.mark.parametrize("ratio", [token_ratio, sequence_ratio, completion_ratio])
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


@pytest.mark.parametrize("ratio", [token_ratio, sequence_ratio, completion_ratio])
@pytest.mark.parametrize("gap", [-1e3, -21.0, -20.0, -19.0, 0.0, 19.0, 20.0, 21.0, 1e3])
def test_log_ratios_are_cut_at_20_nats_either_way(ratio, gap: float) -> None:
    each = gap / 3 if ratio is completion_ratio else gap  # whose log-ratio is the sum over three tokens
    found = ratio(torch.full((2, 3), each), torch.zeros(2, 3), EVERYWHERE).log()
    torch.testing.assert_close(found, torch.full((2, 3), max(-20.0, min(20.0, gap))), atol=1e-4, rtol=0)


@pytest.mark.parametrize("ratio", [token_ratio, sequence_ratio, completion_ratio])
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
    bounds = {"level": "token", "floor": 0.5, "cap": 2.0}
    found = importance_weight(logp, torch.zeros(1, 2), EVERYWHERE[:1, :2], correction=correction, **bounds)
    assert found[0].tolist() == pytest.approx([2.0, above])


@pytest.mark.parametrize(("correction", "below"), [("truncate", 0.5), ("mask", 0.0)])
def test_a_weight_at_the_floor_stays(correction: str, below: float) -> None:
    """Weights 0.5 and 0.499: the band of IcePop from 0.5 to 5."""
    logp = torch.tensor([[0.5, 0.499]]).log()
    bounds = {"level": "token", "floor": 0.5, "cap": 5.0}
    found = importance_weight(logp, torch.zeros(1, 2), EVERYWHERE[:1, :2], correction=correction, **bounds)
    assert found[0].tolist() == pytest.approx([0.5, below])


def test_the_weight_of_a_sequence_is_the_product() -> None:
    """2 * 3 = 6 is above the cap of 4 though neither factor is, 2 * 1/4 within; what stands behind the end is not read.
    At each token of the completion."""
    logp = torch.tensor([[2.0, 3.0, 9.0], [2.0, 0.25, 1.0]]).log()
    mask = torch.tensor([[True, True, False], [True, True, True]])
    bounds = {"level": "sequence", "floor": 0.0, "cap": 4.0}
    cut = importance_weight(logp, torch.zeros(2, 3), mask, correction="truncate", **bounds)
    dropped = importance_weight(logp, torch.zeros(2, 3), mask, correction="mask", **bounds)
    torch.testing.assert_close(cut, torch.tensor([[4.0], [0.5]]).expand(2, 3))
    torch.testing.assert_close(dropped, torch.tensor([[0.0], [0.5]]).expand(2, 3))


def test_sequence_weights_are_exact_and_token_weights_are_not() -> None:
    """Two tokens, each of {0, 1}, the second's chances depending on the first. E_sampler[w f(o)] = E_pi[f(o)] for the
    product; with the last token's weight alone, the first tokens are still the sampler's."""
    p_first, p_second = torch.tensor([0.7, 0.3]), torch.tensor([[0.5, 0.5], [0.1, 0.9]])
    q_first, q_second = torch.tensor([0.2, 0.8]), torch.tensor([[0.3, 0.7], [0.6, 0.4]])
    outcomes = [(a, b) for a in (0, 1) for b in (0, 1)]
    logp = torch.tensor([[p_first[a], p_second[a, b]] for a, b in outcomes]).log()
    sampler = torch.tensor([[q_first[a], q_second[a, b]] for a, b in outcomes]).log()
    value = torch.tensor([1.0, -2.0, 0.5, 3.0])
    exact = (logp.sum(1).exp() * value).sum()
    mask = torch.ones(4, 2, dtype=torch.bool)
    expected = {}
    for level in ("token", "sequence"):
        weight = importance_weight(logp, sampler, mask, correction="truncate", level=level, floor=0.0, cap=1e6)
        expected[level] = (sampler.sum(1).exp() * weight[:, 1] * value).sum()
    torch.testing.assert_close(expected["sequence"], exact)
    assert (expected["token"] - exact).abs() > 0.1


def test_completions_that_have_strayed() -> None:
    """Nats per token less than the sampler said: 0.6 and 0.5 on average, of a limit of 0.5; a third has a positive
    advantage, a fourth became more likely. What stands behind the end is not read."""
    sampler = torch.full((4, 3), -1.0)
    logp = sampler - torch.tensor([[0.2, 1.0, 77.0], [0.4, 0.6, 77.0], [3.0, 3.0, 77.0], [-3.0, -3.0, 77.0]])
    mask = torch.tensor([[True, True, False]]).expand(4, 3)
    adv = torch.tensor([[-1.0], [-1.0], [1.0], [-1.0]]).expand(4, 3)
    found = strayed(logp, sampler, adv, mask, limit=0.5 + 1e-6)
    assert found[:, 0].tolist() == [True, False, False, False]
    found = strayed(logp, sampler, adv.clamp(min=0), mask, limit=0.1)
    assert not found.any(), "an advantage of 0 is not negative"
    exact = strayed(torch.full((1, 3), -1.5), sampler[:1], adv[:1], mask[:1], limit=0.5)
    assert not exact.any(), "at the limit is not beyond it"


def test_completion_ratio_by_hand() -> None:
    """2 * 1/4 * 3, whatever stands behind the end; a token moves it by the whole ratio."""
    logp = torch.tensor([[2.0, 0.25, 3.0, 9.0]]).log().requires_grad_()
    ratio = completion_ratio(logp, torch.zeros(1, 4), torch.tensor([[True, True, True, False]]))
    assert ratio[0].tolist() == pytest.approx([1.5] * 4)
    ratio[:, 0].sum().backward()
    assert logp.grad is not None
    assert logp.grad[0].tolist() == pytest.approx([1.5, 1.5, 1.5, 0])
