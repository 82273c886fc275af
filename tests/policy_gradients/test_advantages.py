"""Advantages by hand."""

import pytest
import torch
from jaxtyping import TypeCheckError

from policy_gradients.advantages import centred, less_baseline, z_score
from policy_gradients.surrogates import clipped, reinforce


def test_z_score_by_hand() -> None:
    """(1, 0, 0, 0): mean 1/4, unbiased variance (9 + 3 * 1)/16 / 3 = 1/4, so 0.75 / 0.5001 and -0.25 / 0.5001.

    (2, 4): mean 3, variance (1 + 1) / 1 = 2. The population's std would be 0.433 and 1.
    """
    adv = z_score(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    assert adv[0].tolist() == pytest.approx([0.75 / 0.5001, *[-0.25 / 0.5001] * 3], rel=1e-6)
    pair = z_score(torch.tensor([[2.0, 4.0]]))
    assert pair[0].tolist() == pytest.approx([-1 / (2**0.5 + 1e-4), 1 / (2**0.5 + 1e-4)], rel=1e-6)


def test_groups_are_apart() -> None:
    """Each prompt is compared with its own completions: swapping groups swaps advantages, and a hard prompt's only
    success is worth as much as if the easy prompt beside it did not exist."""
    reward = torch.tensor([[1.0, 0.0, 0.0, 0.0], [9.0, 9.0, 8.0, 9.0]])
    for advantage in (z_score, centred):
        adv = advantage(reward)
        assert torch.equal(advantage(reward.flip(0)), adv.flip(0))
        torch.testing.assert_close(adv[:1], advantage(reward[:1]))
        torch.testing.assert_close(adv.sum(1), torch.zeros(2), atol=1e-5, rtol=0)


def test_centred_by_hand() -> None:
    assert centred(torch.tensor([[1.0, 0.0, 0.0, 3.0]])).tolist() == [[0, -1, -1, 2]]


@pytest.mark.parametrize("value", [0.7, 0.1, 1 / 3, 1.0, 0.0, -2.3, 1e6])
@pytest.mark.parametrize("size", [2, 3, 7, 8, 64])
def test_equal_rewards_teach_nothing(value: float, size: int) -> None:
    """The fp32 mean of eight times 0.7 is not 0.7: divided by a std of 0 + 1e-8, that was an advantage of 0.8."""
    reward = torch.full((2, size), value)
    assert z_score(reward).tolist() == [[0.0] * size] * 2
    assert centred(reward).tolist() == [[0.0] * size] * 2


def test_nearly_equal_rewards_stay_small() -> None:
    """Differences of 1e-6 are noise: (1e-6 - mean) / (5e-7 + 1e-4) is below a hundredth."""
    assert z_score(torch.tensor([[1e-6, 0.0, 0.0, 0.0]])).abs().max() < 0.01


def test_less_baseline_by_hand() -> None:
    reward = torch.tensor([[1.0, 0.0], [0.5, 2.0]])
    assert less_baseline(reward, baseline=0.5).tolist() == [[0.5, -0.5], [0.0, 1.5]]
    assert torch.equal(less_baseline(reward, baseline=0.0), reward)


def test_advantages_go_along_rows_when_n_equals_t() -> None:
    """Two completions of two tokens, advantages 1 and 10: as (2,), they would go to the first and the second token."""
    logp = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
    adv = torch.tensor([[1.0], [10.0]])
    assert reinforce(logp, None, adv).tolist() == [[1, 2], [30, 40]]
    ratio = torch.ones(2, 2)
    assert clipped(logp, ratio, adv, clip_low=0.2, clip_high=0.2).tolist() == [[-1, -1], [-10, -10]]
    with pytest.raises(TypeCheckError):
        reinforce(logp, None, adv.flatten())
    with pytest.raises(TypeCheckError):
        clipped(logp, ratio, adv.flatten(), clip_low=0.2, clip_high=0.2)
