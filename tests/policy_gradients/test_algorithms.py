"""Whole algorithms: against exact gradients of policies whose outcomes are enumerated, and cut into micro-batches."""

import itertools
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from enumerated_policy import RECIPES, Enumerated, expected_ascent
from tiny_models import tiny_model
from torch import Tensor, nn

from policy_gradients.algorithm import load
from policy_gradients.algorithms import names
from policy_gradients.config import PolicyGradientConfig
from policy_gradients.credit import Outcomes, per_completion
from policy_gradients.defaults import resolve
from rlhf.aggregate import Totals, aggregates
from rlhf.groups import Group, micro_batches
from rlhf.kl import k1, k3
from rlhf.logprobs import Scorer
from rlhf.tensors import masked_sum

ROOT = Path(__file__).parents[2]
PASS_2 = resolve(PolicyGradientConfig(algorithm="passk", pass_k=2))


def test_the_enumeration_is_whole() -> None:
    assert Enumerated(0).probability().sum().item() == pytest.approx(1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("baseline", [0.0, 0.7, -3.0])
def test_reinforce_is_the_gradient_of_the_expected_reward(seed: int, baseline: float) -> None:
    """With completions of unequal length, any baseline, and nothing sampled: equal to 1e-12."""
    policy = Enumerated(seed)
    exact = policy.gradient((policy.probability() * policy.reward).sum())
    reinforce = RECIPES["reinforce"]
    adv = reinforce.advantage(policy.reward[:, None], baseline)[:, 0]
    torch.testing.assert_close(policy.ascent(adv, aggregate=reinforce.aggregate), exact, atol=1e-12, rtol=1e-9)


def test_dividing_by_length_is_another_gradient() -> None:
    """What sequence_mean optimizes is not the expected reward: a token of a long completion is worth less."""
    policy = Enumerated(0)
    exact = policy.gradient((policy.probability() * policy.reward).sum())
    biased = policy.ascent(policy.reward, aggregate=aggregates["sequence_mean"])
    assert (biased - exact).abs().max() > 0.01
    scaled = policy.ascent(policy.reward, aggregate=aggregates["fixed_length"])
    torch.testing.assert_close(3 * scaled, exact)


def test_kl_in_the_reward_is_the_gradient_of_the_regularized_objective() -> None:
    """E[R] - c KL(pi || ref), the KL of whole completions: k1 summed over a completion's tokens, off its reward."""
    policy, reference, coef = Enumerated(1), Enumerated(5), 0.3
    logp, logp_ref = policy.logp(), reference.logp().detach()
    whole = policy.probability()
    kl = (whole * (whole.log() - reference.probability().detach().log())).sum()
    exact = policy.gradient((whole * policy.reward).sum() - coef * kl)
    penalty = masked_sum(k1(logp.detach(), logp_ref), policy.mask)
    torch.testing.assert_close(policy.ascent(policy.reward - coef * penalty), exact, atol=1e-12, rtol=1e-9)


def test_k3_in_the_reward_would_be_no_penalty_near_the_reference() -> None:
    """Its gradient there lacks E[d k3] = d KL(ref || pi), which cancels d KL(pi || ref) to first order."""
    policy, reference = Enumerated(1), Enumerated(1)
    reference.theta = (reference.theta + 0.05 * Enumerated(2).theta).detach()
    logp, logp_ref = policy.logp(), reference.logp()
    pull = {k: policy.ascent(-masked_sum(k(logp.detach(), logp_ref), policy.mask)).abs().max() for k in (k1, k3)}
    assert pull[k3] < 0.1 * pull[k1]


def test_grpo_on_policy_by_hand() -> None:
    """d loss / d logp = -z_i / (|o_i| * n): rewards (1, 0, 0, 0) have z = (0.75, -0.25, -0.25, -0.25) / 0.5001."""
    grpo = RECIPES["grpo"]
    length = torch.tensor([3, 1, 2, 3])
    mask = torch.arange(3) < length[:, None]
    logp = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    adv = grpo.advantage(torch.tensor([[1.0, 0.0, 0.0, 0.0]])).reshape(-1, 1)
    loss = grpo.surrogate(logp, grpo.ratio(logp, logp.detach(), mask), adv, mask)
    value = grpo.aggregate(loss, mask, Totals(4, int(mask.sum()), 8))
    value.backward()
    z = torch.tensor([[0.75], [-0.25], [-0.25], [-0.25]]) / 0.5001
    torch.testing.assert_close(logp.grad, torch.where(mask, -z / length[:, None] / 4, 0.0))
    assert value.item() == pytest.approx(0, abs=1e-6), "the mean of z scores"


# ------------------------------------------------------------------------- the table of docs/policy_gradients.md


def documented() -> dict[str, tuple[list[str], set[str], dict[str, str]]]:
    """Of each algorithm, by the name of its file: the four choices, the needs, the published values."""
    text = (ROOT / "docs" / "policy_gradients.md").read_text()
    table = {}
    for line in text.splitlines():
        if match := re.match(r"\| \[.*?\]\(\.\./policy_gradients/algorithms/(\w+)\.py\) ", line):
            _, *choices, needs, values = (cell.strip() for cell in line.strip("|").split("|"))
            if len(choices) == 4:
                pairs = [pair.split() for pair in values.split(", ") if pair]
                table[match[1]] = (choices, set(needs.split(", ")), dict(pairs))
    return table


def name_of(function) -> str:
    return "-" if function is None else f"`{getattr(function, 'func', function).__name__}`"


def test_the_table_has_every_algorithm() -> None:
    assert sorted(documented()) == names()


@pytest.mark.parametrize("name", names())
def test_choices_and_published_values_are_those_of_the_table(name: str) -> None:
    """Each algorithm would learn with another aggregation or clip as well: nothing else would notice."""
    algorithm = load(name)
    choices, needs, values = documented()[name]
    functions = (algorithm.advantage, algorithm.ratio, algorithm.surrogate, algorithm.aggregate)
    assert [name_of(function) for function in functions] == choices
    assert algorithm.needs == needs
    unnamed = {
        "dual_clip": None, "kl_coef": 0.0, "kl_in": "loss", "second_moment": None, "nll_coef": 0.0,
        "resample_rounds": 0, "truncated": "keep", "overlong_buffer": 0.2,
    }  # fmt: skip
    for key, value in algorithm.published.values.items():
        assert str(value) == values.get(key, str(unnamed.get(key))), key
    assert values.keys() <= algorithm.published.values.keys()


# ------------------------------------------------------------------------- through a model, cut into micro-batches

GROUPS = [
    Group([1, 2, 3], [[4, 5, 6, 7], [8], [9, 9], [4, 5, 6]]),
    Group([7], [[1, 2], [3, 4, 5, 6, 7, 8], [5], [5]]),
]
REWARD = torch.tensor([[1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 1.0, 0.0]])


def step_gradient(model: nn.Module, name: str, groups: list[Group], reward: Tensor, **layout) -> list[Tensor]:
    """The gradient of one optimizer step, as the training loop computes it, off-policy and with a KL term."""
    recipe = RECIPES[name]
    if "token_rewards" in recipe.needs:  # one advantage for each token; here of any kind
        adv = torch.sin(torch.arange(8.0 * reward.numel())).view(-1, 8)
    else:
        reward = (reward > 0.6).float() if "binary" in recipe.needs else reward
        length = torch.tensor([[len(completion) for completion in group.completions] for group in groups])
        outcomes = Outcomes(
            reward,
            length,
            mean_so_far=0.3,
            greedy_reward=reward[:, :1],
            components=torch.stack([reward, reward.square()], -1),
            weights=torch.tensor([1.0, 0.5]),
        )
        adv = per_completion(recipe, outcomes).reshape(-1, 1).expand(-1, 8)
    tokens = sum(len(completion) for group in groups for completion in group.completions)
    totals = Totals(sequences=reward.numel(), tokens=tokens, max_new_tokens=8)
    model.zero_grad()
    for rows in micro_batches(groups, **layout):
        scores = Scorer(model)(rows)
        old = scores.logp.detach() + 0.3 * torch.sin(rows.labels.float())  # some ratios lie beyond the clip
        ratio = recipe.ratio(scores.logp, old, scores.mask) if recipe.ratio else None
        a = adv[rows.index, : scores.logp.shape[1]]
        loss = recipe.surrogate(scores.logp, ratio, a, scores.mask)
        loss = loss + 0.1 * k3(scores.logp, torch.full_like(scores.logp, -3.0))
        recipe.aggregate(loss, scores.mask, totals).backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize(
    "layout",
    [
        {"token_budget": 1},
        {"token_budget": 9},
        {"token_budget": 30, "shared_prefix": False},
        {"token_budget": 10**6, "pack_to": 40},
    ],
)
def test_micro_batches_do_not_change_the_step(qwen3: nn.Module, name: str, layout: dict) -> None:
    whole = step_gradient(qwen3, name, GROUPS, REWARD, token_budget=10**6)
    pieces = step_gradient(qwen3, name, GROUPS, REWARD, **layout)
    assert max(gradient.abs().max() for gradient in whole) > 0.01
    for a, b in zip(whole, pieces, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def test_groups_without_contrast_give_grpo_no_gradient() -> None:
    """Every reward 0.7, no KL: not a small gradient, none at all."""
    model = tiny_model("llama", layers=1)
    grpo = RECIPES["grpo"]
    adv = grpo.advantage(torch.full((2, 4), 0.7)).reshape(-1, 1)
    (rows,) = micro_batches(GROUPS, token_budget=10**6)
    scores = Scorer(model)(rows)
    ratio = grpo.ratio(scores.logp, scores.logp.detach(), scores.mask)
    loss = grpo.surrogate(scores.logp, ratio, adv[rows.index], scores.mask)
    grpo.aggregate(loss, scores.mask, Totals(8, 20, 8)).backward()
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


# ------------------------------------------------------------------------- against each other, and off-policy


@pytest.mark.parametrize("name", names())
def test_on_policy_every_surrogate_has_the_gradient_of_reinforce(name: str) -> None:
    """At logp_old = logp: d loss / d logp_t = -adv, for each token; GSPO spreads the same sum over a sequence."""
    policy, adv = Enumerated(3), torch.linspace(-2, 2, 15, dtype=torch.float64)
    expected = policy.ascent(adv, aggregate=aggregates["sequence_mean"])
    found = policy.ascent(adv, aggregate=aggregates["sequence_mean"], name=name)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)


def loss_gradient(name: str, log_ratio: list[float], adv: float) -> list[float]:
    """d loss / d logp of the tokens of one completion that have moved by `log_ratio` since it was sampled."""
    recipe = RECIPES[name]
    old = torch.tensor([[-2.0, -1.0, -0.5][: len(log_ratio)]], dtype=torch.float64)
    logp = (old + torch.tensor([log_ratio], dtype=torch.float64)).requires_grad_()
    mask = torch.ones_like(logp, dtype=torch.bool)
    ratio = recipe.ratio(logp, old, mask) if recipe.ratio else None
    loss = recipe.surrogate(logp, ratio, torch.full_like(logp, adv), mask)
    (gradient,) = torch.autograd.grad(loss.sum(), logp)
    return gradient[0].tolist()


LOG2 = 0.6931471805599453


CLIPPED = ["ppo", "grpo", "drgrpo", "passk", "gdpo", "reinforce_plus_plus", "reinforce_plus_plus_baseline"]


@pytest.mark.parametrize("name", CLIPPED)
def test_clipped_off_policy_by_hand(name: str) -> None:
    """Ratios 2, 1/2, 1. d(ratio * adv) / d logp = ratio * adv where the clip of 0.2 lets it through.

    adv 1: ratio 2 has risen past 1.2, no gradient; 1/2 and 1 give -ratio. adv -1: 2 and 1 give +ratio; 1/2 has fallen
    past 0.8.
    """
    assert loss_gradient(name, [LOG2, -LOG2, 0.0], 1.0) == pytest.approx([0, -0.5, -1])
    assert loss_gradient(name, [LOG2, -LOG2, 0.0], -1.0) == pytest.approx([2, 0, 1])


@pytest.mark.parametrize("name", ["dapo", "vapo"])
def test_dapo_and_vapo_clip_higher(name: str) -> None:
    """Ratio 1.25 is past GRPO's 1.2 but not past 1.28, which 1.3 is; 0.75 is past 0.8 for all, 0.85 is not. Nothing
    stops a ratio that moved against its advantage."""
    up, high, down, low = (math.log(x) for x in (1.25, 1.3, 0.75, 0.85))
    assert loss_gradient("grpo", [up], 1.0) == [0]
    assert loss_gradient(name, [up, high, down], 1.0) == pytest.approx([-1.25, 0, -0.75])
    assert loss_gradient(name, [high, low, down], -1.0) == pytest.approx([1.3, 0.85, 0])


def test_cispo_off_policy_by_hand() -> None:
    """-sg(min(ratio, 5)) * adv: ratio 2 weighs 2, exp(2) = 7.39 weighs 5, none is dropped, either sign."""
    assert loss_gradient("cispo", [LOG2, 2.0, -LOG2], 1.0) == pytest.approx([-2, -5, -0.5])
    assert loss_gradient("cispo", [LOG2, 2.0, -LOG2], -1.0) == pytest.approx([2, 5, 0.5])


def test_sapo_off_policy_by_hand() -> None:
    """d/d logp of -(4/tau) sigmoid(tau (ratio - 1)) adv = -4 p (1 - p) ratio adv, p = sigmoid(tau (ratio - 1)).

    Ratio 2: p = sigmoid(1) = 0.731059, 4 p (1-p) = 0.786448, times 2. With adv < 0, tau = 1.05: p = 0.740775,
    4 p (1-p) = 0.768110. Ratio 1/2, tau 1: p = sigmoid(-0.5) = 0.377541, 4 p (1-p) = 0.940015, times 0.5.
    """
    assert loss_gradient("sapo", [LOG2, -LOG2, 0.0], 1.0) == pytest.approx([-1.572896, -0.470007, -1], abs=1e-5)
    assert loss_gradient("sapo", [LOG2], -1.0) == pytest.approx([1.536220], abs=1e-5)


def test_gspo_off_policy_by_hand() -> None:
    """Log-ratios 0.0001, 0.0002, 0.0003: s = exp(0.0002), inside 1 + 0.0004; each token gets a third of s * adv.

    Log-ratios 3 and -3 cancel: s = 1, though each token is far off. Log-ratios of 0.001 are past the clip.
    """
    assert loss_gradient("gspo", [1e-4, 2e-4, 3e-4], 1.0) == pytest.approx([-1.0002] * 3, abs=1e-6)
    assert loss_gradient("gspo", [3.0, -3.0], 1.0) == pytest.approx([-1, -1])
    assert loss_gradient("gspo", [1e-3] * 3, 1.0) == [0, 0, 0]
    assert loss_gradient("gspo", [1e-3] * 3, -1.0) == pytest.approx([1.001] * 3, abs=1e-5)
    assert loss_gradient("gspo", [-1e-3] * 3, 1.0) == pytest.approx([-0.999] * 3, abs=1e-5)
    assert loss_gradient("gspo", [-1e-3] * 3, -1.0) == [0, 0, 0]
    assert loss_gradient("gspo", [-2e-4] * 3, -1.0) == pytest.approx([0.9998] * 3, abs=1e-6)


def test_luspo_off_policy_by_hand() -> None:
    """Log-ratios 0.001, 0.002, 0.003: s = exp(0.002), inside 1 + 0.0025, where GSPO is past its clip. A mean of 0.003
    is past this one too, if it rose with its advantage. Of 1 and 3 tokens, sums over 2 sequences: -(s1 + 3 s2) / 2."""
    assert loss_gradient("luspo", [1e-3, 2e-3, 3e-3], 1.0) == pytest.approx([-math.exp(2e-3)] * 3)
    assert loss_gradient("luspo", [3e-3] * 3, 1.0) == [0, 0, 0]
    assert loss_gradient("luspo", [3e-3] * 3, -1.0) == pytest.approx([math.exp(3e-3)] * 3)
    assert loss_gradient("luspo", [-3e-3] * 3, 1.0) == pytest.approx([-math.exp(-3e-3)] * 3)
    assert loss_gradient("luspo", [-2.1e-3] * 3, -1.0) == [0, 0, 0]
    assert loss_gradient("luspo", [-1.9e-3] * 3, -1.0) == pytest.approx([math.exp(-1.9e-3)] * 3)
    luspo, mask = RECIPES["luspo"], torch.tensor([[True, False, False], [True, True, True]])
    logp = torch.tensor([[1e-3, 9.0, 9.0], [1e-3, 2e-3, 0.0]])
    loss = luspo.surrogate(logp, luspo.ratio(logp, torch.zeros(2, 3), mask), torch.ones(2, 1), mask)
    wanted = -(math.exp(1e-3) + 3 * math.exp(1e-3)) / 2
    assert luspo.aggregate(loss, mask, Totals(2, 4, 3)).item() == pytest.approx(wanted)


def test_luspo_is_the_policy_gradient_on_policy_and_gspo_is_not() -> None:
    """Over all completions, of unequal length, with their rewards as advantages."""
    policy = Enumerated(4)
    exact = policy.gradient((policy.probability() * policy.reward).sum())
    found = {
        name: policy.ascent(policy.reward, aggregate=RECIPES[name].aggregate, name=name) for name in ("luspo", "gspo")
    }
    torch.testing.assert_close(found["luspo"], exact, atol=1e-12, rtol=1e-9)
    assert (found["gspo"] - exact).abs().max() > 0.01


def test_luspo_off_policy_is_the_gradient_of_what_it_says() -> None:
    """Of completions of another policy mu, unclipped: grad of E_mu[|o| (pi / mu)^(1 / |o|) adv]."""
    policy, other = Enumerated(2), Enumerated(6)
    luspo = resolve(PolicyGradientConfig(algorithm="luspo", clip_low=1 - 1e-9, clip_high=1e9, epochs_per_batch=2))
    length, mu = policy.mask.sum(1).double(), other.probability().detach()
    logp, old = policy.logp(), other.logp().detach()
    loss = luspo.surrogate(logp, luspo.ratio(logp, old, policy.mask), policy.reward[:, None], policy.mask)
    found = -policy.gradient(luspo.aggregate((15 * mu)[:, None] * loss, policy.mask, Totals(15, 40, 3)))
    s = (policy.probability() / mu) ** (1 / length)
    torch.testing.assert_close(found, policy.gradient((mu * length * s * policy.reward).sum()), atol=1e-12, rtol=1e-9)


def test_gmpo_off_policy_by_hand() -> None:
    """log_clip 0.4. adv 1: log-ratios 1.0, 0.1, -2.0 count as 0.4 (held), 0.1, -2.0: mean -0.5. adv -1: as 1.0, 0.1 and
    -0.4 (held): mean 0.7 / 3. d(-exp(mean) * adv) / d logp is -exp(mean) * adv / 3 at a token that is not held. The
    loss stands at each of the 3 tokens, so their sum has 3 times that gradient.
    """
    assert loss_gradient("gmpo", [1.0, 0.1, -2.0], 1.0) == pytest.approx([0, -math.exp(-0.5), -math.exp(-0.5)])
    held_below = math.exp(0.7 / 3)
    assert loss_gradient("gmpo", [1.0, 0.1, -2.0], -1.0) == pytest.approx([held_below, held_below, 0])
    assert loss_gradient("gmpo", [1.0, 0.1, -2.0], 0.0) == [0, 0, 0]
    assert loss_gradient("gmpo", [0.41], 1.0) == [0]
    assert loss_gradient("gmpo", [0.39], 1.0) == pytest.approx([-math.exp(0.39)])
    assert loss_gradient("gmpo", [-0.41], -1.0) == [0]
    assert loss_gradient("gmpo", [-0.39], -1.0) == pytest.approx([math.exp(-0.39)])


def test_gmpo_value_by_hand() -> None:
    """Of completions with log-ratios (0.2, 0.4, 3.0) and (0.2, -0.6), the second cut by the mask to its first two
    tokens: -exp((0.2 + 0.4 + 0.4) / 3) * 2 and -exp(-0.2) * 0.5; GRPO's sequence mean of each is the same number."""
    gmpo = RECIPES["gmpo"]
    log_ratio = torch.tensor([[0.2, 0.4, 3.0], [0.2, -0.6, 9.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    adv = torch.tensor([[2.0], [0.5]])
    loss = gmpo.surrogate(log_ratio, log_ratio.exp(), adv, mask)
    wanted = [-2 * math.exp(1 / 3), -0.5 * math.exp(-0.2)]
    assert loss[0].tolist() == pytest.approx([wanted[0]] * 3, rel=1e-5)
    assert loss[1, :2].tolist() == pytest.approx([wanted[1]] * 2, rel=1e-5)
    assert gmpo.aggregate(loss, mask, Totals(2, 5, 3)).item() == pytest.approx(sum(wanted) / 2, rel=1e-5)


def test_gmpo_is_less_moved_by_one_extreme_ratio_than_grpo() -> None:
    """A token of adv < 0 that is e^3 times as likely as before: its ratio is GRPO's weight for it, 20.1; here every
    token has the weight e^(3 / 3) = 2.7."""
    assert loss_gradient("grpo", [3.0, 0.0, 0.0], -1.0) == pytest.approx([math.exp(3), 1, 1])
    assert loss_gradient("gmpo", [3.0, 0.0, 0.0], -1.0) == pytest.approx([math.e] * 3)


@pytest.mark.parametrize("seed", range(3))
def test_importance_weights_make_another_policys_samples_count(seed: int) -> None:
    """Ratio times adv, unclipped and summed over a one-token policy, sampled from elsewhere, is the exact gradient.

    E_old[ratio * adv] = E_pi[adv], so its gradient is that of the expected reward, however far the two are apart.
    """
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    old = torch.randn(5, generator=generator, dtype=torch.float64).log_softmax(-1)
    reward = torch.randn(5, generator=generator, dtype=torch.float64)
    (exact,) = torch.autograd.grad((theta.softmax(-1) * reward).sum(), theta)
    logp, mask = theta.log_softmax(-1)[:, None], torch.ones(5, 1, dtype=torch.bool)
    grpo = resolve(PolicyGradientConfig(algorithm="grpo", clip_low=1 - 1e-9, clip_high=1e9, epochs_per_batch=2))
    weighed = (old.exp() * reward)[:, None]
    loss = grpo.surrogate(logp, grpo.ratio(logp, old[:, None], mask), weighed, mask)
    torch.testing.assert_close(-torch.autograd.grad(loss.sum(), theta)[0], exact, atol=1e-12, rtol=1e-9)


# ------------------------------------------------------------------------- exact expectations over groups


@pytest.mark.parametrize("g", [2, 3])
def test_rloo_is_the_gradient_of_the_expected_reward(g: int) -> None:
    """Leave-one-out is unbiased for any g; the mean of the whole group is off by (g - 1) / g, GRPO's std by more."""
    policy = Enumerated(4)
    exact = policy.gradient((policy.probability() * policy.reward).sum())
    torch.testing.assert_close(expected_ascent("rloo", policy, policy.reward, g=g), exact, atol=1e-12, rtol=1e-9)
    centered = expected_ascent("drgrpo", policy, policy.reward, g=g)
    torch.testing.assert_close(centered * g / (g - 1), exact, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("g", [2, 3])
def test_maxrl_is_the_gradient_of_log_success_cut_after_g_less_one_terms(g: int) -> None:
    """log p = -sum_k (1 - p)^k / k, so d/dp of its first g - 1 terms is sum over k < g of (1 - p)^(k - 1).

    E[(r_i / mean - 1) grad logp_i, 0 if none succeeds] = sum_{k=1}^{g} (1-p)^(k-1) dp - (1-p)^(g-1) dp: the weights
    r / mean give g terms, and leaving the -1 out where none succeeds takes the last one off again.
    """
    policy = Enumerated(4)
    success = (policy.reward > 0.4).double()
    assert 0 < success.sum() < 15
    p = (policy.probability() * success).sum()
    exact = policy.gradient(-sum((1 - p) ** k / k for k in range(1, g)))
    torch.testing.assert_close(expected_ascent("maxrl", policy, success, g=g), exact, atol=1e-12, rtol=1e-9)


def test_passk_by_hand() -> None:
    """g = 4, k = 2, two right ones: 1 of 6 pairs fails, std sqrt(5) / 6. Right: (1/6) / std = 1 / sqrt(5). A wrong one
    is in 3 pairs, of which 1 fails: (1/6 - 1/3) / std. None where all are wrong, or fewer than k."""
    reward = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0] * 4, [1.0] * 4, [1.0, 1.0, 0.0, 1.0]])
    x = 5**-0.5
    adv = PASS_2.advantage(reward)
    torch.testing.assert_close(adv, torch.tensor([[x, -x, -x, x], *[[0.0] * 4] * 3]))
    with pytest.raises(ValueError, match="0 or 1"):
        PASS_2.advantage(reward / 2)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_passk_compares_choices_of_k_completions(k: int) -> None:
    """By the definition: every choice of k out of 5, its reward the best in it, drawn one by one."""
    recipe = resolve(PolicyGradientConfig(algorithm="passk", pass_k=k))
    for reward in itertools.product((0.0, 1.0), repeat=5):
        best = {choice: max(reward[i] for i in choice) for choice in itertools.combinations(range(5), k)}
        mean, std = np.mean(list(best.values())), np.std(list(best.values()))
        wanted = [np.mean([best[choice] for choice in best if i in choice]) - mean for i in range(5)]
        found = recipe.advantage(torch.tensor([reward]))[0]
        assert found.tolist() == pytest.approx([x / std if std else 0.0 for x in wanted], abs=1e-6)


def test_passk_is_the_gradient_of_pass_at_k() -> None:
    """Times the standard deviation of the choices: (1/k) (1 - k/g) that of 1 - (1 - p)^k, with g = 3 and k = 2."""
    policy = Enumerated(4)
    success = (policy.reward > 0.4).double()
    p = (policy.probability() * success).sum()
    exact = policy.gradient(1 - (1 - p) ** 2) / 2 / 3

    def before_std(reward: Tensor) -> Tensor:
        wrong = (reward == 0).double().sum()
        fail = wrong * (wrong - 1) / 6
        return PASS_2.advantage(reward) * (fail * (1 - fail)).sqrt()

    found = expected_ascent("passk", policy, success, g=3, recipe=replace(PASS_2, advantage=before_std))
    torch.testing.assert_close(found, exact, atol=1e-12, rtol=1e-9)


def test_opo_by_hand() -> None:
    """3 tokens with reward 1, 1 token with reward 0: b = 3/4, so adv = 1/4 and -3/4; d loss / d logp = -adv / 2."""
    opo = RECIPES["opo"]
    length = torch.tensor([3, 1])
    mask = torch.arange(3) < length[:, None]
    logp = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -9.0, -9.0]], requires_grad=True)
    adv = per_completion(opo, Outcomes(torch.tensor([[1.0, 0.0]]), length[None], mean_so_far=9.0)).reshape(-1, 1)
    value = opo.aggregate(opo.surrogate(logp, None, adv, mask), mask, Totals(2, 4, 8))
    value.backward()
    assert value.item() == pytest.approx((0.25 * 6 - 0.75 * 4) / 2)
    assert logp.grad is not None
    assert logp.grad.tolist() == [[-0.125] * 3, [0.375, 0, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_opos_baseline_is_that_of_the_least_variance(seed: int) -> None:
    """A policy of three equally likely tokens after each prefix: the gradient of a token's log-probability has the
    squared norm (2/3)^2 + 2 (1/3)^2 = 2/3, those of different prefixes are orthogonal, so |grad log pi(o)|^2 = 2/3 l.
    Every outcome as often as it is likely, 27 in all, is a group whose b is E[l r] / E[l].

    The variance of (r - b) grad log pi, summed over parameters, is a parabola of b. Gradients that are divided by the
    length, as sequence_mean does, have another optimum, and a baseline biases them.
    """
    policy = Enumerated(seed)
    policy.theta = torch.zeros_like(policy.theta, requires_grad=True)
    p, length = policy.probability().detach(), policy.mask.sum(1)
    score = torch.stack([policy.gradient(masked_sum(policy.logp(), policy.mask)[i]).flatten() for i in range(15)])
    torch.testing.assert_close(score.square().sum(1), 2 / 3 * length.double())

    def variance(baseline: float, gradients: Tensor) -> float:
        sampled = (policy.reward - baseline)[:, None] * gradients
        return float((p[:, None] * (sampled - p @ sampled).square()).sum())

    def best(gradients: Tensor) -> float:
        low, middle, high = (variance(b, gradients) for b in (-1.0, 0.0, 1.0))
        return (low - high) / (2 * (low + high - 2 * middle))

    group = torch.arange(15).repeat_interleave((27 * p).round().long())
    reward = policy.reward[group]
    adv = per_completion(RECIPES["opo"], Outcomes(reward[None], length[group][None]))[0]
    baseline = (reward - adv)[0].item()
    torch.testing.assert_close(reward - adv, torch.full((27,), baseline, dtype=torch.float64))
    assert best(score) == pytest.approx(baseline)
    assert variance(baseline, score) < variance(reward.mean().item(), score)
    by_length = score / length[:, None]
    assert best(by_length) != pytest.approx(baseline, rel=0.01)
    assert (p @ score).abs().max() < 1e-12, "any baseline leaves the expected gradient as it is"
    assert (p @ by_length).abs().max() > 0.01, "here it does not"


def test_opo_counts_tokens_and_not_completions() -> None:
    """The advantages of a group's tokens add up to 0; those of completions of equal length are RLOO's (g - 1) / g."""
    opo, reward = RECIPES["opo"], torch.tensor([[1.0, 0.0, 0.5, 0.25], [0.7, 0.7, 0.7, 0.7]])
    length = torch.tensor([[7, 1, 2, 30], [3, 1, 4, 1]])
    adv = per_completion(opo, Outcomes(reward, length))
    torch.testing.assert_close((length * adv).sum(1), torch.zeros(2), atol=1e-5, rtol=0)
    assert adv[0].sum().item() == pytest.approx(1.75 - 4 * 15.5 / 40)
    assert adv[1].tolist() == [0] * 4, "equal rewards, exactly"
    left_out = per_completion(opo, Outcomes(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1, 0], [0, 0]])))
    assert left_out.tolist() == [[0, -1], [0.5, -0.5]], "what the loss leaves out has no weight in the baseline"
    equal = per_completion(opo, Outcomes(reward, torch.full((2, 4), 5)))
    torch.testing.assert_close(equal, RECIPES["rloo"].advantage(reward) * 3 / 4)


def test_opos_bias_falls_as_the_group_grows() -> None:
    """The baseline contains the completion itself. Between expected and exact gradient lies more than a factor."""
    policy = Enumerated(4)
    exact = policy.gradient((policy.probability() * policy.reward).sum())
    off = []
    for g in (2, 3):
        found = expected_ascent("opo", policy, policy.reward, g=g)
        scaled = (found * exact).sum() / found.square().sum() * found  # as near as a factor brings it
        off.append(float((scaled - exact).norm() / exact.norm()))
    assert 0.01 < off[1] < off[0]


def test_dr_grpo_does_not_care_how_length_is_split() -> None:
    """Two completions of 2 and 6 tokens, or of 4 and 4: the same tokens in all give the same gradient norm a token."""
    for lengths in ([2, 6], [4, 4]):
        mask = torch.arange(6) < torch.tensor(lengths)[:, None]
        logp = torch.full((2, 6), -1.0, requires_grad=True)
        drgrpo = RECIPES["drgrpo"]
        adv = drgrpo.advantage(torch.tensor([[1.0, 0.0]])).reshape(-1, 1).expand(-1, 6)
        loss = drgrpo.surrogate(logp, drgrpo.ratio(logp, logp.detach(), mask), adv, mask)
        (gradient,) = torch.autograd.grad(drgrpo.aggregate(loss, mask, Totals(2, 8, 10)), logp)
        torch.testing.assert_close(gradient.abs(), mask * 0.5 / (2 * 10))
