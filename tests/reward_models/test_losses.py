"""Losses against values derived by hand and against TRL's own."""

import math

import pytest
import torch
from torch import tensor

from reward_models.losses import bradley_terry, centering, outcome, plackett_luce, process


def test_bradley_terry_by_hand():
    """Rewards 2 and 2 - ln 3: D = ln 3, sigmoid(D) = 3/4, loss = ln(4/3). Equal rewards: ln 2. A margin of ln 3 takes
    the difference back: ln 2 again. Wrong way round by ln 3: sigmoid = 1/4, ln 4."""
    three = math.log(3)
    chosen = tensor([2.0, 5.0, 2.0, 1.0])
    rejected = tensor([2 - three, 5.0, 2 - three, 1 + three])
    margin = tensor([0.0, 0.0, three, 0.0])
    expected = tensor([math.log(4 / 3), math.log(2), math.log(2), math.log(4)])
    torch.testing.assert_close(bradley_terry(chosen, rejected, margin), expected)


def test_bradley_terry_gradient():
    """d/dr_w = -sigmoid(-(D - m)), d/dr_l the opposite. D = ln 3, m = 0: -1/4 and +1/4."""
    chosen, rejected = tensor([math.log(3)], requires_grad=True), tensor([0.0], requires_grad=True)
    bradley_terry(chosen, rejected, tensor([0.0])).sum().backward()
    assert (float(chosen.grad), float(rejected.grad)) == (pytest.approx(-0.25), pytest.approx(0.25))


def test_centering_by_hand():
    assert centering(tensor([1.0, 2.0]), tensor([-1.0, 3.0])).tolist() == [0.0, 25.0]


def test_plackett_luce_by_hand():
    """exp(r) = 4, 2, 2: P = 4/8 * 2/4 = 1/4. exp(r) = 1, 3, 4: P = 1/8 * 3/7."""
    reward = tensor([[4.0, 2.0, 2.0], [1.0, 3.0, 4.0]]).log()
    torch.testing.assert_close(plackett_luce(reward), tensor([4.0, 56 / 3]).log())


def test_plackett_luce_probabilities_of_all_orders_add_up_to_one():
    from itertools import permutations

    reward = torch.randn(4, generator=torch.Generator().manual_seed(0)).double()
    orders = torch.stack([reward[list(order)] for order in permutations(range(4))])
    assert float((-plackett_luce(orders)).exp().sum()) == pytest.approx(1)


def test_plackett_luce_of_two_is_bradley_terry():
    reward = torch.randn(50, 2, generator=torch.Generator().manual_seed(1)) * 3
    torch.testing.assert_close(plackett_luce(reward), bradley_terry(reward[:, 0], reward[:, 1], torch.zeros(50)))


def test_outcome_by_hand():
    """logit ln 3: p = 3/4. Right: ln(4/3); wrong: ln 4. Logit 0: ln 2 either way."""
    logit = tensor([[math.log(3), 0.0], [math.log(3), 0.0]])
    expected = tensor([[math.log(4 / 3), math.log(2)], [math.log(4), math.log(2)]])
    torch.testing.assert_close(outcome(logit, tensor([1.0, 0.0])), expected)


def test_process_by_hand():
    """exp(logits) = 1, 2, 5: p = 1/8, 1/4, 5/8."""
    logits = tensor([[1.0, 2.0, 5.0]] * 3).log()
    torch.testing.assert_close(process(logits, tensor([0, 1, 2])), tensor([8.0, 4.0, 8 / 5]).log())
