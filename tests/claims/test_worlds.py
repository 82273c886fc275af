"""The worlds of computed claims: what is right, what is preferred, and how far a policy is, against brute force."""

import pytest
import torch

from claims.computed.log_linear import COMPLETIONS, World, minimize
from claims.computed.reward_network import PAIRS, Gold, quarters, train
from reward_models.losses import bradley_terry


@pytest.fixture(scope="module")
def world() -> World:
    return World(0)


def test_a_quarter_is_right_and_the_start_is_at_no_distance(world: World) -> None:
    assert world.right.sum(1).tolist() == [COMPLETIONS // 4] * len(world.right)
    assert float(world.kl(world.start)) == 0
    assert 0.1 < world.accuracy(world.start) < 0.4


def test_kl_and_accuracy_are_sums_over_completions(world: World) -> None:
    theta = world.start + 0.5
    policy, start = ((world.features @ one).softmax(1) for one in (theta, world.start))
    kl = (policy * (policy / start).log()).sum(1)
    assert float(world.kl(theta)) == pytest.approx(float(kl[world.training].mean()))
    right = torch.where(world.right, policy, 0.0).sum(1)
    assert world.accuracy(theta) == pytest.approx(float(right[world.held_out].mean()))


def test_pairs_are_a_right_and_a_wrong_one_of_a_prompt(world: World) -> None:
    sampled = world.sample(world.start, 2)
    prompt, right, wrong = world.pairs(sampled)
    assert world.right[prompt, right].all()
    assert not world.right[prompt, wrong].any()
    assert 10 < len(prompt) < 70
    assert all({int(a), int(b)} == set(sampled[p].tolist()) for p, a, b in zip(prompt, right, wrong, strict=True))


def test_minimize_gives_the_parameters_on_the_way(world: World) -> None:
    """Of (theta - 1)^2 Adam's first step is lr, and it ends at 1."""
    found = minimize(lambda theta: (theta - 1).square(), torch.zeros(3, dtype=torch.float64), [1, 400], lr=0.05)
    assert found[1].tolist() == pytest.approx([0.05] * 3)
    assert found[400].tolist() == pytest.approx([1] * 3, abs=1e-3)


def test_gold_prefers_what_is_worth_more_but_for_the_noise() -> None:
    gold = Gold(0)
    assert float(gold.reward(gold.completions(4000)).std()) == pytest.approx(1, abs=0.1)
    for noise in (0.0, 0.25):
        chosen, rejected = gold.pairs(noise)
        wrong = float((gold.reward(chosen) < gold.reward(rejected)).double().mean())
        assert wrong == pytest.approx(noise, abs=0.08 * (noise > 0))


def test_quarters_are_of_one_size_from_the_smallest_to_the_largest() -> None:
    assert quarters(torch.tensor([5.0, -1.0, 9.0, 2.0, 3.0, 7.0, 0.0, 8.0])).tolist() == [2, 0, 3, 1, 1, 2, 0, 3]


def test_first_weights_alone_depend_on_the_seed_of_a_reward_model() -> None:
    gold = Gold(1)
    chosen, rejected = gold.pairs(0.0)

    def loss(r_w: torch.Tensor, r_l: torch.Tensor) -> torch.Tensor:
        return bradley_terry(r_w, r_l, torch.zeros(PAIRS))

    one, again, other = (train(loss, chosen, rejected, seed=seed, steps=20)(chosen) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)
    assert float((one > train(loss, chosen, rejected, seed=0, steps=20)(rejected)).double().mean()) > 0.6
