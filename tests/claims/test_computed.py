"""What the computed claims compute, beside closed forms."""

import pytest
import torch
from steps_by_hand import token_logp
from tiny_models import tiny_model

from claims.computed.enumerated import Enumerated
from claims.computed.exact_noise import exact_noise, right, scores
from claims.computed.gradient_pool import Pool, noise, sketches
from claims.computed.kl_gradients import at_distance, errors, exact, kl
from claims.computed.mismatch import CORRECTIONS, colder, elsewhere, likeliest
from claims.computed.mismatch import errors as mismatch_errors
from claims.computed.prompt_weights import at_success, exact_weight, sampled_weight
from rlhf.groups import Group


def test_the_exact_gradients_of_the_kl() -> None:
    """That of whole completions is the derivative along a direction; of next tokens it holds the visits fixed."""
    policy, theta_ref = Enumerated(3), Enumerated(8).theta.detach()
    direction = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    of_completions, of_tokens = exact(policy, theta_ref)
    values = []
    for step in (1e-5, -1e-5):
        moved = Enumerated(3)
        moved.theta = (policy.theta.detach() + step * direction).requires_grad_()
        values.append(kl(moved, theta_ref))
    assert float(of_completions @ direction.flatten()) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)
    last = [i for i, prefix in enumerate(policy.prefixes) if len(prefix) == 2]  # nothing follows but one token
    both = (one.view(7, 3)[last] for one in (of_completions, of_tokens))
    torch.testing.assert_close(*both)
    assert (of_completions - of_tokens).norm() > 0.01


def test_what_each_penalty_is_worth() -> None:
    found = errors(3, [0.003, 0.3])
    for distance in (0.003, 0.3):
        assert found["k2 in loss", distance]["error, next tokens"] == pytest.approx(0, abs=1e-9)
        assert found["ratio · k3 in loss", distance]["error, next tokens"] == pytest.approx(0, abs=1e-9)
        assert found["k1 in reward", distance]["error, completions"] == pytest.approx(0, abs=1e-9)
        assert found["k1 in loss", distance]["error, next tokens"] == pytest.approx(1)
    near, far = (found["k3 in loss", distance]["error, next tokens"] for distance in (0.003, 0.3))
    assert 0 < 3 * near < far
    assert found["k3 in reward", 0.003]["error, completions"] == pytest.approx(1, abs=0.1)


def test_a_reference_at_a_distance() -> None:
    policy = Enumerated(1)
    theta_ref = at_distance(policy, Enumerated(2).theta.detach(), 0.05)
    assert kl(policy, theta_ref) == pytest.approx(0.05)


def test_samplers_that_are_not_the_policy() -> None:
    policy = Enumerated(1)
    assert kl(policy, elsewhere(policy, 1, 0.05)) == pytest.approx(0.05)
    table = policy.theta.detach().softmax(-1)
    squared = table.square()
    torch.testing.assert_close(colder(policy, 0.5).softmax(-1), squared / squared.sum(-1, keepdim=True))
    for all_of, kept in zip(table, likeliest(policy, 0.9).softmax(-1), strict=True):
        top = all_of.sort(descending=True).values
        count = 1 if top[0] >= 0.9 else 2 if top[:2].sum() >= 0.9 else 3
        assert int((kept > 0).sum()) == count
        torch.testing.assert_close(kept.sort(descending=True).values[:count], top[:count] / top[:count].sum())


def test_what_each_correction_leaves_of_the_gradient() -> None:
    """Nothing is wrong where the sampler is the policy; else the product alone is exact, but for what is never said."""
    policy = Enumerated(5)
    same = mismatch_errors(policy, policy.theta.detach())
    assert [same[name]["bias"] for name in CORRECTIONS] == pytest.approx([0] * len(CORRECTIONS), abs=1e-9)
    found = mismatch_errors(policy, elsewhere(policy, 5, 0.3))
    assert found["product"]["bias"] == pytest.approx(0, abs=1e-9)
    assert found["none"]["bias"] > found["TIS"]["bias"] > found["TIS of completions"]["bias"] > 0.01
    assert mismatch_errors(policy, likeliest(policy, 0.6))["product"]["bias"] > 0.01


def test_the_error_of_a_batch_by_hand() -> None:
    """On-policy it is the spread of (r - E r) s, the gradient of one completion, by 8 for the mean of 64."""
    policy = Enumerated(2)
    p, score = policy.probability().detach(), scores(policy).sum(1)
    each = (policy.reward - p @ policy.reward)[:, None] * score
    mean = p @ each
    spread = (p @ (each - mean).square().sum(1)).sqrt() / mean.norm()
    assert mismatch_errors(policy, policy.theta.detach())["none"]["error"] == pytest.approx(float(spread) / 8)


def test_a_group_of_one_prompt_by_hand() -> None:
    """With one prompt and groups of one, no baseline: the noise is E|r s|^2 / |E r s|^2 - 1."""
    policy = Enumerated(0)
    p, reward, score = policy.probability().detach(), right(policy), scores(policy).sum(1)
    second = p @ (reward[:, None] * score).square().sum(1)
    first = (p @ (reward[:, None] * score)).square().sum()
    torch.testing.assert_close(p @ score, torch.zeros(21, dtype=torch.float64), atol=1e-12, rtol=0)
    found = exact_noise(0, prompts=1, group_size=2)
    assert found["no baseline"] == pytest.approx(float(second / first - 1) / 2)
    assert found["best constant"] < found["prompt's mean"]
    assert found["perfect critic"] < found["prompt's mean"]


def test_scores_are_gradients() -> None:
    policy = Enumerated(4)
    of_tokens = scores(policy)
    for i in (0, 1, 9):
        for j in range(len(policy.outcomes[i])):
            torch.testing.assert_close(of_tokens[i, j], policy.gradient(policy.logp()[i, j]).flatten())


def test_noise_of_batches_of_a_pool() -> None:
    """Two prompts with three completions each, batches of one draw a prompt: the noise is that of all nine batches."""
    generator = torch.Generator().manual_seed(0)
    score = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    score -= score.mean(1, keepdim=True)
    reward = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    pool = Pool(reward, torch.ones(2, 3, dtype=torch.long), score, torch.tensor([1.0, 0.0], dtype=torch.float64))
    each = reward[..., None] * score
    all_batches = torch.stack([(each[0, i] + each[1, j]) / 2 for i in range(3) for j in range(3)])
    mean = all_batches.mean(0)
    torch.testing.assert_close(mean, pool.gradient)
    exact = (all_batches - mean).square().sum(1).mean() / mean.square().sum() / 2  # batches of two draws a prompt
    found = noise(pool, group_size=2, batches=20_000, seed=0)
    assert found["no baseline"]["noise"] == pytest.approx(float(exact), rel=0.03)
    assert found["no baseline"]["direction"] == pytest.approx(1, abs=1e-3)
    assert found["best constant"]["noise"] < min(found[name]["noise"] for name in ("prompt's mean", "ReMax"))


def test_sketches_keep_lengths_and_are_those_of_each_completion() -> None:
    model = tiny_model("qwen3").float()
    group = Group([5, 6, 7], [[8, 9], [10], [8, 9]])
    found = sketches(model, group)
    assert torch.equal(found[0], found[2])
    gradient = torch.autograd.grad(token_logp(model, group.prompt, [8, 9], 1.0).sum(), list(model.parameters()))
    exact = sum(float(part.square().sum()) for part in gradient)
    assert float(found[0].square().sum()) == pytest.approx(exact, rel=0.15)


def test_weights_of_prompts_by_hand() -> None:
    """Groups of two: Dr. GRPO's advantages are +-1/2 where the two differ, so w = 1/2 whatever p is. GRPO divides by
    the standard deviation, 1 / sqrt(2), whenever they differ: sqrt(2) times that, so it does not depend on p either.
    Groups of three do: of one right completion the deviation is sqrt(1/3), as of two."""
    assert exact_weight("drgrpo", 0.3, group_size=2) == pytest.approx(1 / 2)
    assert exact_weight("grpo", 0.3, group_size=2) == pytest.approx(2**-0.5, rel=1e-3)
    p = 0.1  # E[adv | right]: the others are both wrong, or one is: 2/3 and 1/3 by sqrt(1/3)
    right_one = ((1 - p) ** 2 * 2 / 3 + 2 * p * (1 - p) / 3) * 3**0.5
    wrong_one = -(p**2 * 2 / 3 + 2 * p * (1 - p) / 3) * 3**0.5
    assert exact_weight("grpo", p, group_size=3) == pytest.approx(right_one - wrong_one, rel=1e-3)


def test_sampled_weights_are_the_exact_ones() -> None:
    policy = at_success(2, 0.25)
    assert float(policy.probability().detach() @ right(policy)) == pytest.approx(0.25)
    for algorithm in ("grpo", "drgrpo", "maxrl"):
        sampled = sampled_weight(policy, algorithm, group_size=4, groups=40_000, seed=1)
        assert sampled == pytest.approx(exact_weight(algorithm, 0.25, group_size=4), rel=0.03)
