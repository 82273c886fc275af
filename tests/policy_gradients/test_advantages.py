"""Advantages by hand."""

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from policy_gradients.advantages import (
    center,
    gae,
    group_normalize,
    mean_normalize,
    minus_baseline,
    reward_to_go,
)
from policy_gradients.surrogates import clipped, reinforce


def test_group_normalize_by_hand() -> None:
    """(1, 0, 0, 0): mean 1/4, unbiased variance (9 + 3 * 1)/16 / 3 = 1/4, so 0.75 / 0.5001 and -0.25 / 0.5001.

    (2, 4): mean 3, variance (1 + 1) / 1 = 2. The population's std would be 0.433 and 1.
    """
    adv = group_normalize(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    assert adv[0].tolist() == pytest.approx([0.75 / 0.5001, *[-0.25 / 0.5001] * 3], rel=1e-6)
    pair = group_normalize(torch.tensor([[2.0, 4.0]]))
    assert pair[0].tolist() == pytest.approx([-1 / (2**0.5 + 1e-4), 1 / (2**0.5 + 1e-4)], rel=1e-6)


def test_groups_are_apart() -> None:
    """Each prompt is compared with its own completions: swapping groups swaps advantages, and a hard prompt's only
    success is worth as much as if the easy prompt beside it did not exist."""
    reward = torch.tensor([[1.0, 0.0, 0.0, 0.0], [9.0, 9.0, 8.0, 9.0]])
    for advantage in (group_normalize, center):
        adv = advantage(reward)
        assert torch.equal(advantage(reward.flip(0)), adv.flip(0))
        torch.testing.assert_close(adv[:1], advantage(reward[:1]))
        torch.testing.assert_close(adv.sum(1), torch.zeros(2), atol=1e-5, rtol=0)


def test_center_by_hand() -> None:
    assert center(torch.tensor([[1.0, 0.0, 0.0, 3.0]])).tolist() == [[0, -1, -1, 2]]


@pytest.mark.parametrize("value", [0.7, 0.1, 1 / 3, 1.0, 0.0, -2.3, 1e6])
@pytest.mark.parametrize("size", [2, 3, 7, 8, 64])
def test_equal_rewards_teach_nothing(value: float, size: int) -> None:
    """The fp32 mean of eight times 0.7 is not 0.7: divided by a std of 0 + 1e-8, that was an advantage of 0.8."""
    reward = torch.full((2, size), value)
    assert group_normalize(reward).tolist() == [[0.0] * size] * 2
    assert center(reward).tolist() == [[0.0] * size] * 2


def test_nearly_equal_rewards_stay_small() -> None:
    """Differences of 1e-6 are noise: (1e-6 - mean) / (5e-7 + 1e-4) is below a hundredth."""
    assert group_normalize(torch.tensor([[1e-6, 0.0, 0.0, 0.0]])).abs().max() < 0.01


def test_minus_baseline_by_hand() -> None:
    reward = torch.tensor([[1.0, 0.0], [0.5, 2.0]])
    assert minus_baseline(reward, 0.5, baseline="running_mean").tolist() == [[0.5, -0.5], [0.0, 1.5]]
    assert torch.equal(minus_baseline(reward, 0.0, baseline="running_mean"), reward)
    assert torch.equal(minus_baseline(reward, 0.5, baseline="none"), reward)


def test_advantages_go_along_rows_when_n_equals_t() -> None:
    """Two completions of two tokens, advantages 1 and 10: as (2,), they would go to the first and the second token."""
    logp = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
    adv = torch.tensor([[1.0], [10.0]])
    mask = torch.ones(2, 2, dtype=torch.bool)
    assert reinforce(logp, None, adv, mask).tolist() == [[1, 2], [30, 40]]
    ratio = torch.ones(2, 2)
    assert clipped(logp, ratio, adv, mask, clip_low=0.2, clip_high=0.2).tolist() == [[-1, -1], [-10, -10]]
    with pytest.raises(TypeCheckError):
        reinforce(logp, None, adv.flatten(), mask)
    with pytest.raises(TypeCheckError):
        clipped(logp, ratio, adv.flatten(), mask, clip_low=0.2, clip_high=0.2)


def test_mean_normalize_refuses_partial_credit() -> None:
    """(r - mean) / mean of partial credit is not the gradient of the log of anything."""
    with pytest.raises(ValueError, match=r"0 or 1, found 0\.5"):
        mean_normalize(torch.tensor([[1.0, 0.0, 0.5]]))


# ------------------------------------------------------------ with a critic

MASK = torch.arange(6) < torch.tensor([6, 3, 1])[:, None]


def drawn(seed: int) -> tuple[Tensor, Tensor]:
    """Rewards and values, with nonsense at padding."""
    generator = torch.Generator().manual_seed(seed)
    reward, value = torch.randn(2, 3, 6, generator=generator)
    return torch.where(MASK, reward, 99.0), torch.where(MASK, value, -77.0)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (0.99, 0.0), (0.8, 1.0)])
def test_gae_is_its_definition(gamma: float, lam: float) -> None:
    """Schulman et al. 2015, eq. 16: adv_t = sum_l (gamma lam)^l delta_(t+l), each completion by itself, unpadded."""
    reward, value = drawn(0)
    adv = gae(reward, value, MASK, gamma=gamma, gae_lambda=lam)
    for i, length in enumerate((6, 3, 1)):
        v = [*value[i, :length].tolist(), 0.0]
        delta = [reward[i, t].item() + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            wanted = sum((gamma * lam) ** k * delta[t + k] for k in range(length - t))
            assert adv[i, t].item() == pytest.approx(wanted, abs=1e-5)
    assert not adv[~MASK].any()


def test_gae_at_its_ends() -> None:
    """lambda 1: reward-to-go minus the value. lambda 0: one step. Values that are right give no advantage."""
    reward, value = drawn(1)
    to_go = reward_to_go(torch.where(MASK, reward, 0.0), gamma=0.9)
    torch.testing.assert_close(gae(reward, value, MASK, gamma=0.9, gae_lambda=1.0), (to_go - value) * MASK)
    right = gae(reward, to_go, MASK, gamma=0.9, gae_lambda=0.7)
    torch.testing.assert_close(right, torch.zeros_like(right), atol=1e-6, rtol=0)
    one_step = gae(reward, value, MASK, gamma=0.5, gae_lambda=0.0)
    assert one_step[1, 0].item() == pytest.approx((reward[1, 0] + 0.5 * value[1, 1] - value[1, 0]).item(), abs=1e-6)
    assert one_step[1, 2].item() == pytest.approx((reward[1, 2] - value[1, 2]).item(), abs=1e-6)


def test_gae_does_not_read_padding() -> None:
    """A value behind the end would be the next value of the last token; a reward there would flow back."""
    mask = torch.tensor([[True, True, False, False]])
    reward = torch.tensor([[0.0, 1.0, 50.0, 50.0]])
    for value in (torch.tensor([[0.2, 0.4, 99.0, 99.0]]), torch.tensor([[0.2, 0.4, -7.0, 0.0]])):
        adv = gae(reward, value, mask, gamma=0.5, gae_lambda=0.5)
        assert adv[0].tolist() == pytest.approx([0.5 * 0.4 - 0.2 + 0.25 * 0.6, 1 - 0.4, 0, 0])
