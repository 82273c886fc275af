"""The entropy bonus: its weight, and its gradient in a step."""

import pytest

from policy_gradients.config import PolicyGradientConfig
from policy_gradients.entropy import EntropyBonus


def test_without_a_target_the_weight_stays() -> None:
    bonus = EntropyBonus(PolicyGradientConfig(entropy_coef=0.01))
    for entropy in (5.0, 0.001):
        bonus.adapt(entropy)
        assert bonus.weight == 0.01
    assert bonus.state() == {}


def test_below_its_target_the_weight_grows_and_above_it_does_not_act() -> None:
    """By 0.005 a step, and down to 0. At the target it is not below."""
    bonus = EntropyBonus(PolicyGradientConfig(entropy_target=0.3))
    weights = []
    for entropy in (0.2, 0.1, 0.3, 0.2, 0.5, 0.5, 0.5, 0.5):
        bonus.adapt(entropy)
        weights.append(bonus.weight)
    assert weights == pytest.approx([0.005, 0.01, 0, 0.01, 0, 0, 0, 0])
    assert bonus.coef == 0


def test_a_resumed_bonus_goes_on() -> None:
    config = PolicyGradientConfig(entropy_target=0.3, entropy_coef=0.02)
    bonus, again = EntropyBonus(config), EntropyBonus(config)
    bonus.adapt(0.9)
    again.load_state(bonus.state())
    assert (again.coef, again.weight) == (pytest.approx(0.015), 0)
    again.load_state({})
    assert again.coef == pytest.approx(0.015)


def test_a_bonus_acts_until_it_has_heard_of_an_entropy() -> None:
    """A state without one, of a run that had none, changes nothing."""
    bonus = EntropyBonus(PolicyGradientConfig(entropy_target=0.3, entropy_coef=0.02))
    assert bonus.weight == 0.02
    bonus.load_state({})
    assert bonus.weight == 0.02
