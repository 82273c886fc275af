"""KL estimators against the exact KL of categorical distributions that lie far apart.

An expectation is a sum over the support, sum_x pi(x) * estimate(x), so there is no sampling noise. At log_r = 0, every
mistake of direction or sign gives 0 too; nothing here is tested there alone.
"""

import math

import pytest
import torch
from torch import Tensor

from rlhf.kl import MAX_LOG_RATIO, estimators, k1, k2, k3

POLICY = torch.tensor([[0.70, 0.20, 0.09, 0.01]], dtype=torch.float64)
REFERENCE = torch.tensor([[0.05, 0.15, 0.30, 0.50]], dtype=torch.float64)


def exact_kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum()


def expected(estimate, p: Tensor, q: Tensor) -> Tensor:
    return (p * estimate(p.log(), q.log())).sum()


@pytest.mark.parametrize("estimate", [k1, k3])
def test_unbiased_for_kl_of_policy_from_reference(estimate) -> None:
    """KL(pi || ref) = 1.76 and KL(ref || pi) = 2.14 here: the other direction misses by far."""
    assert expected(estimate, POLICY, REFERENCE) == pytest.approx(float(exact_kl(POLICY, REFERENCE)), rel=1e-12)
    assert abs(exact_kl(POLICY, REFERENCE) - exact_kl(REFERENCE, POLICY)) > 0.3


@pytest.mark.parametrize("estimate", [k1, k3])
def test_two_outcomes_by_hand(estimate) -> None:
    """pi = (1/2, 1/2), ref = (1/4, 3/4): KL = 1/2 ln 2 + 1/2 ln(2/3) = 1/2 ln(4/3)."""
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
    assert expected(estimate, p, q) == pytest.approx(0.5 * math.log(4 / 3), rel=1e-5)


def test_k2_by_hand() -> None:
    """ref = 1/4, pi = 1/2: log_r = -ln 2, so k2 = (ln 2)^2 / 2. The same for log_r = ln 2."""
    logp, logp_ref = torch.tensor([[0.5, 0.25]]).log(), torch.tensor([[0.25, 0.5]]).log()
    assert k2(logp, logp_ref)[0].tolist() == pytest.approx([math.log(2) ** 2 / 2] * 2)


def test_k3_by_hand() -> None:
    """A token that pi made 4 times as likely as ref: r = 1/4, r - 1 - ln r = -0.75 + 1.386 = 0.636.
    One that it made 4 times less likely: r = 4, 3 - 1.386 = 1.614: k3 is not symmetric."""
    logp, logp_ref = torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.2, 0.8]]).log()
    assert k3(logp, logp_ref)[0].tolist() == pytest.approx([-0.75 + math.log(4), 3 - math.log(4)], rel=1e-5)


def gradient_of_expectation(estimate, logits: Tensor) -> Tensor:
    """E_pi[d estimate / d theta]: the samples are drawn from pi, and do not carry gradient."""
    logp = logits.log_softmax(-1)
    return torch.autograd.grad((logp.exp().detach() * estimate(logp, REFERENCE.log())).sum(), logits)[0]


def test_gradients_as_a_loss() -> None:
    """Of the expectations over pi's own samples, with r = ref/pi and E_pi[d log pi] = 0:

    k1:  E[d log pi]            = 0: no use as a loss
    k2:  E[-log r * d log pi]   = d KL(pi || ref)
    k3:  E[(1 - r) * d log pi]  = -sum ref * d log pi = d KL(ref || pi), the other direction's gradient
    """
    logits = POLICY.log().requires_grad_()
    of_kl = torch.autograd.grad(exact_kl(logits.softmax(-1), REFERENCE), logits)[0]
    of_reverse = torch.autograd.grad(exact_kl(REFERENCE, logits.softmax(-1)), logits)[0]
    assert of_kl.abs().max() > 0.1
    assert (of_kl - of_reverse).abs().max() > 0.1
    torch.testing.assert_close(gradient_of_expectation(k1, logits), torch.zeros_like(logits), atol=1e-12, rtol=0)
    torch.testing.assert_close(gradient_of_expectation(k2, logits), of_kl)
    torch.testing.assert_close(gradient_of_expectation(k3, logits), of_reverse)


def test_k1_in_the_reward_pulls_back_to_the_reference() -> None:
    """Subtracted from the reward, k1 changes the policy gradient by -E[k1 * d log pi] = -d KL(pi || ref)."""
    logits = POLICY.log().requires_grad_()
    logp = logits.log_softmax(-1)
    penalty = k1(logp, REFERENCE.log()).detach()
    objective = (logp.exp().detach() * -penalty * logp).sum()
    gained = torch.autograd.grad(objective, logits)[0]
    torch.testing.assert_close(
        gained, -torch.autograd.grad(exact_kl(logits.softmax(-1), REFERENCE), logits)[0], atol=1e-12, rtol=1e-9
    )
    moved = (logits.detach() + 0.1 * gained).softmax(-1)
    assert exact_kl(moved, REFERENCE) < exact_kl(POLICY, REFERENCE)


@pytest.mark.parametrize("estimate", estimators.values())
def test_penalty_is_positive_where_the_policy_drifted(estimate) -> None:
    """A token that training made likelier, from 0.1 to 0.9, costs reward; the wrong sign would pay for drift."""
    logp, logp_ref = torch.tensor([[0.9]]).log(), torch.tensor([[0.1]]).log()
    assert estimate(logp, logp_ref) > 0.1
    assert expected(estimate, POLICY, REFERENCE) > 0.1
    assert estimate(logp, logp) == 0


def test_k3_is_never_negative_and_keeps_small_digits() -> None:
    """log_r = 1e-4: k3 = log_r^2 / 2 = 5e-9 in fp32, where exp(x) - 1 - x has errors of 6e-8."""
    log_r = torch.linspace(-25, 25, 1001)[None]
    assert (k3(torch.zeros_like(log_r), log_r) >= 0).all()
    close = torch.full((1, 3), 1e-4)
    torch.testing.assert_close(k3(torch.zeros_like(close), close), torch.full_like(close, 5e-9), rtol=1e-2, atol=0)


@pytest.mark.parametrize("estimate", estimators.values())
@pytest.mark.parametrize("log_r", [1e4, -1e4, 90.0, -90.0])
def test_extreme_ratios_stay_finite(estimate, log_r: float) -> None:
    """exp(90) overflows fp32. Clamping behind the exp would leave inf * 0 = nan in the gradient."""
    logp = torch.zeros(1, 1, requires_grad=True)
    value = estimate(logp, torch.full((1, 1), log_r))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(logp.grad).all()


def test_the_clamp_is_out_of_the_way() -> None:
    """15 nats for one token is far beyond any run, and still exact."""
    assert MAX_LOG_RATIO >= 15
    assert k1(torch.tensor([[-1.0]]), torch.tensor([[-16.0]])).item() == 15
    assert k3(torch.tensor([[-1.0]]), torch.tensor([[-16.0]])).item() == pytest.approx(math.exp(-15) - 1 + 15)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_log_ratios_are_cut_at_20_nats(sign: float) -> None:
    """Beyond, on either side, every estimator keeps its value at 20 and has no gradient; at 19.5 it has both."""
    for estimator in (k1, k2, k3):
        values, slopes = [], []
        for far in (19.5, 20.0, 20.5, 30.0):
            logp = torch.tensor([[-sign * far]], requires_grad=True)
            value = estimator(logp, torch.zeros(1, 1))
            values.append(float(value.detach()))
            slopes.append(float(torch.autograd.grad(value.sum(), logp)[0]))
        assert values[0] != values[1] == values[2] == values[3]
        assert slopes[0] != 0
        assert slopes[2:] == [0, 0]
    assert float(k1(torch.tensor([[-sign * 30]]), torch.zeros(1, 1))) == -sign * 20


def test_estimators_by_name() -> None:
    assert estimators == {"k1": k1, "k2": k2, "k3": k3}
