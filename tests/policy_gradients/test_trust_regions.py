"""What becomes of a token that has moved since it was sampled, in DPPO, TOPR, VESPO and M2PO; VAPO's advantages."""

import math

import pytest
import torch
from accelerate import Accelerator
from enumerated_policy import RECIPES, Enumerated
from policy_gradient_steps import batch_of_two_prompts
from torch import Tensor

from policy_gradients.advantages import gae, reward_to_go
from policy_gradients.algorithms.dppo import divergence_masked
from policy_gradients.algorithms.topr import tapered
from policy_gradients.algorithms.vapo import gae_by_length
from policy_gradients.config import PolicyGradientConfig
from policy_gradients.credit import Credit, token_rewards
from policy_gradients.defaults import resolve
from policy_gradients.ratios import completion_ratio, token_ratio
from rlhf.aggregate import Totals

ONE = torch.tensor([[True]])


def slope(surrogate, ratio_of, p_old: float, p: float, adv: float, **settings) -> float:
    """d loss / d logp of a single token whose probability has gone from p_old to p."""
    logp = torch.tensor([[math.log(p)]], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([[math.log(p_old)]], dtype=torch.float64)
    loss = surrogate(logp, ratio_of(logp, old, ONE), torch.tensor([[adv]], dtype=torch.float64), ONE, **settings)
    (found,) = torch.autograd.grad(loss.sum(), logp)
    return found.item()


@pytest.mark.parametrize(
    ("p_old", "p", "adv", "found"),
    [
        # gained 0.19 and 0.21, praised: -ratio * adv, then nothing
        (0.5, 0.69, 1.0, -0.69 / 0.5),
        (0.5, 0.71, 1.0, 0.0),
        # lost 0.19 and 0.21, blamed
        (0.5, 0.31, -1.0, 0.31 / 0.5),
        (0.5, 0.29, -1.0, 0.0),
        # moved against the advantage: goes on, however far
        (0.1, 0.9, -2.0, 2.0 * 9),
        (0.9, 0.1, 2.0, -2.0 / 9),
        # ten times as likely, but by 0.009 only; PPO would stop it
        (0.001, 0.01, 1.0, -10.0),
        # from 0.99 to 0.78 is within PPO's clip of 0.8, nearly; here it is stopped
        (0.99, 0.78, -1.0, 0.0),
        (0.5, 0.5, 0.0, 0.0),
    ],
)
def test_dppo_by_hand(p_old: float, p: float, adv: float, found: float) -> None:
    assert slope(divergence_masked, token_ratio, p_old, p, adv, max_shift=0.2) == pytest.approx(found)


def test_dppo_goes_on_at_the_bound_itself() -> None:
    """From 0.5 to 1, in floats that hold them exactly: a shift of 0.5 is not more than 0.5."""
    ratio = torch.tensor([[2.0]], requires_grad=True)
    loss = divergence_masked(torch.tensor([[0.0]]), ratio, torch.tensor([[1.0]]), ONE, max_shift=0.5)
    assert torch.autograd.grad(loss.sum(), ratio)[0].item() == -1


def test_dppo_is_the_exact_gradient_off_policy_while_nothing_is_masked() -> None:
    """E_old[ratio * r] = E_pi[r] over one token, for probabilities that differ by less than 0.2; with a bound below
    their distance it is another gradient."""
    theta = torch.tensor([0.3, -0.2, 0.5, 0.0], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([0.0, 0.4, 0.1, 0.2], dtype=torch.float64).log_softmax(-1)[:, None]
    reward = torch.tensor([1.0, -0.5, 2.0, 0.3], dtype=torch.float64)
    (exact,) = torch.autograd.grad((theta.softmax(-1) * reward).sum(), theta)

    def found(max_shift: float) -> Tensor:
        logp, mask = theta.log_softmax(-1)[:, None], torch.ones(4, 1, dtype=torch.bool)
        loss = divergence_masked(logp, token_ratio(logp, old, mask), reward[:, None], mask, max_shift=max_shift)
        return -torch.autograd.grad((old.exp() * loss).sum(), theta)[0]

    torch.testing.assert_close(found(0.2), exact)
    assert (found(0.02) - exact).abs().max() > 0.01


@pytest.mark.parametrize(
    ("p_old", "p", "adv", "found"),
    [
        (0.2, 0.8, 1.0, -1.0),
        (0.8, 0.2, 1.0, -1.0),
        (0.8, 0.2, 0.5, -0.5),
        (0.2, 0.8, -1.0, 1.0),
        (0.8, 0.2, -1.0, 0.25),
        (0.4, 0.1, -3.0, 0.75),
    ],
)
def test_topr_by_hand(p_old: float, p: float, adv: float, found: float) -> None:
    """Right: weight 1 whatever the ratio. Wrong: the ratio, at most 1."""
    assert slope(tapered, completion_ratio, p_old, p, adv) == pytest.approx(found)


def test_topr_off_policy_is_the_gradient_of_what_it_says() -> None:
    """Over all completions of another policy mu: the sum of mu r grad log pi over right ones, as supervised learning,
    and of min(pi, mu) r grad log pi over wrong ones; on-policy the gradient of the expected reward of 1 and -1."""
    policy, other, topr = Enumerated(2), Enumerated(6), RECIPES["topr"]
    success = (policy.reward > 0.3).double()
    assert 0 < success.sum() < 15
    signed = topr.advantage(success[None])[0]
    assert signed.tolist() == (2 * success - 1).tolist()

    def ascent(mu: Enumerated) -> Tensor:
        p, logp, old = mu.probability().detach(), policy.logp(), mu.logp().detach()
        loss = topr.surrogate(logp, topr.ratio(logp, old, policy.mask), signed[:, None], policy.mask)
        return -policy.gradient(topr.aggregate((15 * p)[:, None] * loss, policy.mask, Totals(15, 40, 3)))

    pi, mu = policy.probability(), other.probability().detach()
    weight = torch.where(success > 0, mu, -torch.minimum(pi.detach(), mu))
    torch.testing.assert_close(ascent(other), policy.gradient((weight * pi.log()).sum()), atol=1e-12, rtol=1e-9)
    on_policy = policy.gradient((policy.probability() * signed).sum())
    torch.testing.assert_close(ascent(policy), on_policy, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(
    ("p_old", "p", "adv", "found"),
    [
        (0.2, 0.4, 1.0, -4 * math.exp(-3)),
        (0.4, 0.2, 1.0, -math.exp(1.5) / 4),
        (0.4, 0.2, -1.0, math.e / 8),
        (0.2, 0.4, -2.0, 16 * math.exp(-2)),
        (0.3, 0.3, -2.0, 2.0),
    ],
)
def test_vespo_by_hand(p_old: float, p: float, adv: float, found: float) -> None:
    """-adv w^k exp(lambda (1 - w)): w 2 or 1/2, k 2 and lambda 3 for praise, 3 and 2 for blame; 1 at w = 1."""
    surrogate = RECIPES["vespo"].surrogate
    assert slope(surrogate, completion_ratio, p_old, p, adv) == pytest.approx(found)


def test_vespo_weighs_whole_completions() -> None:
    """Log-ratios 1 and -1 cancel. Far off, in either direction, nothing is left, and nothing is infinite."""
    vespo, mask = RECIPES["vespo"], torch.ones(1, 2, dtype=torch.bool)

    def weights(*log_ratio: float) -> list[float]:
        logp = torch.tensor([log_ratio], requires_grad=True)
        ratio = vespo.ratio(logp, torch.zeros(1, 2), mask)
        vespo.surrogate(logp, ratio, torch.ones(1, 1), mask).sum().backward()
        assert logp.grad is not None
        return logp.grad[0].tolist()

    assert weights(1.0, -1.0) == pytest.approx([-1, -1])
    for far in (weights(15.0, 15.0), weights(-30.0, -30.0)):
        assert far == pytest.approx([0, 0], abs=1e-12)


def test_vespo_off_policy_is_the_gradient_of_what_it_says() -> None:
    """Over all completions of another policy mu: the sum of mu phi(pi / mu) r grad log pi, by tokens; on-policy the
    gradient of the expected reward."""
    policy, other, vespo = Enumerated(2), Enumerated(6), RECIPES["vespo"]
    assert {1.0, -1.0} <= {*policy.reward.sign().tolist()}

    def ascent(mu: Enumerated) -> Tensor:
        p, logp, old = mu.probability().detach(), policy.logp(), mu.logp().detach()
        loss = vespo.surrogate(logp, vespo.ratio(logp, old, policy.mask), policy.reward[:, None], policy.mask)
        return -policy.gradient(vespo.aggregate(p[:, None] * loss, policy.mask, Totals(15, 1, 3)))

    pi, mu = policy.probability(), other.probability().detach()
    w = (pi / mu).detach()
    phi = torch.where(policy.reward >= 0, w**2 * torch.exp(3 * (1 - w)), w**3 * torch.exp(2 * (1 - w)))
    wanted = policy.gradient((mu * phi * policy.reward * pi.log()).sum())
    torch.testing.assert_close(ascent(other), wanted, atol=1e-12, rtol=1e-9)
    on_policy = policy.gradient((policy.probability() * policy.reward).sum())
    torch.testing.assert_close(ascent(policy), on_policy, atol=1e-12, rtol=1e-9)


def test_topr_reward_shift() -> None:
    topr = resolve(PolicyGradientConfig(algorithm="topr", reward_shift=-0.5))
    assert topr.advantage(torch.tensor([[1.0, 0.0]])).tolist() == [[1.5, -0.5]]


def test_m2po_has_no_clip_of_its_own() -> None:
    """-ratio * adv, either way: what is left out, the whole step decides (test_token_rules.py)."""
    for p_old, p, adv, found in ((0.1, 0.9, 2.0, -18), (0.9, 0.1, 2.0, -2 / 9), (0.1, 0.9, -1.0, 9), (0.9, 0.1, -9, 1)):
        assert slope(RECIPES["m2po"].surrogate, token_ratio, p_old, p, adv) == pytest.approx(found)
    assert RECIPES["m2po"].config.second_moment == 0.04


def test_vapos_lambda_by_length() -> None:
    """length_alpha 0.1: 40 tokens have 1 - 1/4, 20 have 1/2, 10 and fewer 0, one of which none counts as well. Each
    completion by itself is `gae`."""
    length = torch.tensor([40, 20, 10, 3, 0])
    mask = torch.arange(40) < length[:, None]
    reward, value = torch.randn(2, 5, 40, generator=torch.Generator().manual_seed(0))
    found = gae_by_length(reward, value, mask, gamma=0.9, length_alpha=0.1)
    for i, gae_lambda in enumerate((0.75, 0.5, 0.0, 0.0, 0.0)):
        own = slice(i, i + 1)
        wanted = gae(reward[own], value[own], mask[own], gamma=0.9, gae_lambda=gae_lambda)
        torch.testing.assert_close(found[own], wanted)


def test_the_weights_of_vapos_surprises_add_up_in_proportion_to_the_length() -> None:
    """1 + lambda + lambda^2 + ... = 1 / (1 - lambda) = length_alpha * length, of an endless completion."""
    for length in (100, 1000, 10_000):
        gae_lambda = 1 - 1 / (0.05 * length)
        assert 1 / (1 - gae_lambda) == pytest.approx(0.05 * length)


def test_vapos_critic_learns_what_happened() -> None:
    batch = batch_of_two_prompts()
    batch.value = torch.full((4, 3), 0.5)
    metrics = Credit(resolve(PolicyGradientConfig(algorithm="vapo")), Accelerator(cpu=True)).assign(batch)
    reward = token_rewards(batch.reward.flatten(), batch.penalty, batch.mask)
    torch.testing.assert_close(batch.target, reward_to_go(reward, gamma=1.0))
    assert metrics["critic/explained_variance"] == pytest.approx(0, abs=1e-6)
    assert batch.adv[batch.mask].mean().item() == pytest.approx(0, abs=1e-6)
