"""Surrogates and ratios, token by token: which gradients pass, which are stopped, and how large they are."""

import math

import pytest
import torch
from torch import Tensor

from policy_gradients.ratios import token_ratio
from policy_gradients.surrogates import clipped, reinforce

ONE = torch.tensor([[True]])  # the mask of a single token


def gradient_of_logp(surrogate, logp_old: float, logp: float, adv: float, **settings) -> float:
    """d loss / d logp of a single token that was sampled at `logp_old`."""
    now = torch.tensor([[logp]], requires_grad=True)
    ratio = token_ratio(now, torch.tensor([[logp_old]]), ONE)
    surrogate(now, ratio, torch.tensor([[adv]]), ONE, **settings).sum().backward()
    assert now.grad is not None
    return now.grad.item()


# Unequal bounds, so that one cannot stand for the other: clipped at 0.8 and 1.5.
CLIP = {"clip_low": 0.2, "clip_high": 0.5}


@pytest.mark.parametrize(
    ("ratio", "adv", "gradient"),
    [
        # Pushed further the way it already went: stopped.
        (1.6, 2.0, 0.0),
        (0.7, -2.0, 0.0),
        # Within the bounds: -ratio * adv, since d ratio / d logp = ratio.
        (1.4, 2.0, -2.8),
        (0.85, -2.0, 1.7),
        (1.0, 2.0, -2.0),
        # Beyond the bounds but pushed back: not held up.
        (1.6, -2.0, 3.2),
        (0.7, 2.0, -1.4),
        (5.0, -1.0, 5.0),
        (0.1, 1.0, -0.1),
        # No advantage, no gradient.
        (1.0, 0.0, 0.0),
    ],
)
def test_clipped_by_hand(ratio: float, adv: float, gradient: float) -> None:
    found = gradient_of_logp(clipped, -1.0, -1.0 + math.log(ratio), adv, **CLIP)
    assert found == pytest.approx(gradient, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    ("ratio", "adv", "loss"),
    [(2.0, 1.0, -1.5), (2.0, -1.0, 2.0), (0.5, 1.0, -0.5), (0.5, -1.0, 0.8), (1.1, 3.0, -3.3)],
)
def test_clipped_values_by_hand(ratio: float, adv: float, loss: float) -> None:
    """-min(ratio * adv, clamp(ratio, 0.8, 1.5) * adv)."""
    value = clipped(torch.zeros(1, 1), torch.tensor([[ratio]]), torch.tensor([[adv]]), ONE, **CLIP)
    assert value.item() == pytest.approx(loss, rel=1e-6)


def test_on_policy_the_surrogates_have_one_gradient() -> None:
    """At ratio 1, d(-ratio * adv) = -adv * d logp."""
    for adv in (-2.0, -0.3, 0.0, 0.7):
        assert gradient_of_logp(clipped, -1.3, -1.3, adv, **CLIP) == pytest.approx(-adv)
        assert gradient_of_logp(reinforce, -1.3, -1.3, adv) == pytest.approx(-adv)


def test_ratio_is_new_over_old() -> None:
    """A token that became twice as likely has ratio 2; 1 where the mask is False, whatever stands there."""
    logp = torch.tensor([[math.log(0.4), math.log(0.1), float("nan")]], requires_grad=True)
    old = torch.tensor([[math.log(0.2), math.log(0.2), 0.0]])
    ratio = token_ratio(logp, old, torch.tensor([[True, True, False]]))
    assert ratio[0].tolist() == pytest.approx([2, 0.5, 1])
    ratio.sum().backward()
    assert logp.grad[0].tolist() == pytest.approx([2, 0.5, 0])


@pytest.mark.parametrize("gap", [1e4, -1e4, 100.0, -100.0])
@pytest.mark.parametrize("adv", [1.0, -1.0])
def test_extreme_ratios_stay_finite(gap: float, adv: float) -> None:
    logp = torch.tensor([[gap]], requires_grad=True)
    ratio = token_ratio(logp, torch.zeros(1, 1), torch.tensor([[True]]))
    loss = clipped(logp, ratio, torch.tensor([[adv]]), ONE, **CLIP)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logp.grad).all()


@pytest.mark.parametrize(
    ("ratio", "adv", "loss", "slope"),
    [(2.0, -1.0, 2.0, 1.0), (4.0, -1.0, 3.0, 0.0), (0.5, -1.0, 0.8, 0.0), (4.0, 1.0, -1.5, 0.0), (1.4, 1.0, -1.4, -1)],
)
def test_dual_clip_by_hand(ratio: float, adv: float, loss: float, slope: float) -> None:
    """dual_clip 3: with adv < 0, a ratio counts as 3 at most. (loss, d loss / d ratio); clips at 0.8 and 1.5."""
    at = torch.tensor([[ratio]], requires_grad=True)
    found = clipped(torch.zeros(1, 1), at, torch.tensor([[adv]]), ONE, clip_low=0.2, clip_high=0.5, dual_clip=3.0)
    found.sum().backward()
    assert at.grad is not None
    assert (found.item(), at.grad.item()) == (pytest.approx(loss), pytest.approx(slope))


def test_dual_clip_ignores_positive_advantages() -> None:
    """dual_clip 1.2 is below the upper clip, 1.5: it bounds tokens with adv < 0 only."""
    ratio, adv = torch.tensor([[1.4, 1.4]]), torch.tensor([[1.0, -1.0]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    found = clipped(torch.zeros(1, 2), ratio, adv, mask, clip_low=0.2, clip_high=0.5, dual_clip=1.2)
    assert found[0].tolist() == pytest.approx([-1.4, 1.2])


# --------------------------------------------------------- against the exact gradient of a policy of four outcomes

REWARD = torch.tensor([1.0, -0.5, 3.0, 0.2], dtype=torch.float64)
NOW = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64)
OLD = torch.tensor([-0.5, 0.4, 0.2, 1.0], dtype=torch.float64)


def exact_gradient() -> Tensor:
    """Of E_pi[R] = sum_o pi(o) R(o)."""
    theta = NOW.clone().requires_grad_()
    return torch.autograd.grad((theta.softmax(0) * REWARD).sum(), theta)[0]


def expected_gradient(sampled_from: Tensor, surrogate, **settings) -> Tensor:
    """-sum_o p(o) d loss(o): four completions of one token each, drawn from p = softmax(sampled_from)."""
    theta = NOW.clone().requires_grad_()
    logp, logp_old = theta.log_softmax(0)[:, None], sampled_from.log_softmax(0)[:, None]
    mask = torch.ones(4, 1).bool()
    ratio = token_ratio(logp, logp_old, mask)
    loss = surrogate(logp, ratio, REWARD[:, None], mask, **settings)
    return -torch.autograd.grad((sampled_from.softmax(0)[:, None] * loss).sum(), theta)[0]


def test_reinforce_on_policy_is_the_exact_gradient() -> None:
    torch.testing.assert_close(expected_gradient(NOW, reinforce), exact_gradient())


def test_the_ratio_corrects_for_another_sampling_policy() -> None:
    """E_old[(pi / old) R] = E_pi[R], whatever old is; without the ratio, the gradient is another one."""
    never = {"clip_low": 1 - 1e-9, "clip_high": 1e9}
    torch.testing.assert_close(expected_gradient(OLD, clipped, **never), exact_gradient())
    assert (expected_gradient(OLD, reinforce) - exact_gradient()).abs().max() > 0.1
    assert (expected_gradient(OLD, clipped, **CLIP) - exact_gradient()).abs().max() > 0.1, "the clip is a bias"
