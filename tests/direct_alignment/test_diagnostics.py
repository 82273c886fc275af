"""What is measured along the way, by hand, and what is said of it."""

import pytest
import torch
from accelerate import Accelerator

from direct_alignment.diagnostics import Adviser, StepSums, implicit_reward, ranked_right
from direct_alignment.losses import Completions, losses


def two_pairs() -> Completions:
    """Log-ratios +3, -1 and 0, 0."""
    ref = torch.tensor([-5.0, -6.0, -7.0, -8.0])
    s = torch.tensor([3.0, -1.0, 0.0, 0.0])
    return Completions(ref + s, ref, torch.tensor([2.0, 3.0, 4.0, 5.0]), torch.tensor([True, False, True, False]))


def test_ties_count_one_half() -> None:
    it = two_pairs()
    reward = implicit_reward(losses["dpo"], it, {"beta": 0.1})
    assert reward.tolist() == pytest.approx([0.3, -0.1, 0, 0])
    assert ranked_right(reward, it.desirable, pairs=True).tolist() == [1, 0.5]
    assert ranked_right(reward, it.desirable, pairs=False).tolist() == [1, 1, 0.5, 0.5]


def test_step_sums() -> None:
    """Over two micro-batches: chosen rewards 0.3 and 0 have mean 0.15; their log-probabilities -2 and -7, mean -4.5."""
    sums, it = StepSums(losses["dpo"], {"beta": 0.1}), two_pairs()
    for rows in (slice(0, 2), slice(2, 4)):
        part = Completions(it.logp[rows], it.logp_ref[rows], it.length[rows], it.desirable[rows])
        sums.add(part, pairs=True)
    means = sums.means(Accelerator(cpu=True))
    expected = {
        "reward/accuracy": 0.75,
        "reward/chosen": 0.15,
        "logp/chosen": -4.5,
        "length/chosen": 3.0,
        "reward/rejected": -0.05,
        "logp/rejected": -7.5,
        "length/rejected": 4.0,
        "reward/margin": 0.2,
    }
    assert means == pytest.approx(expected)


def test_displacement_is_said() -> None:
    adviser = Adviser()
    values = {("chosen", "logp"): (-10.0, -18.0), ("samples", "length"): (20.0, 40.0), ("samples", "kl"): (0.0, 60.0)}
    both = {which: [{"value": value} for value in pair] for which, pair in values.items()}
    assert adviser.look_at_evaluations({which: records[:1] for which, records in both.items()}) == []
    displaced, far, longer = adviser.look_at_evaluations(both)
    assert "8 nats less likely" in displaced
    assert "60 nats" in far
    assert "from 20 to 40 tokens" in longer


def test_a_policy_that_does_not_move_is_said() -> None:
    adviser = Adviser(window=3)
    said = [adviser.look({"reward/accuracy": 0.5}) for _ in range(3)]
    assert said[:2] == [[], []]
    assert "does not move" in said[2][0]
