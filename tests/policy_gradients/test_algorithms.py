"""Whole algorithms: against exact gradients of policies whose outcomes are enumerated, and cut into micro-batches."""

import itertools

import pytest
import torch
from tiny_models import tiny_model
from torch import Tensor, nn

from policy_gradients.algorithm import Algorithm
from policy_gradients.algorithms import algorithms
from rlhf.aggregate import Totals, aggregates, sequence_sum
from rlhf.groups import Group, micro_batches
from rlhf.kl import k1, k3
from rlhf.scoring import Scorer
from rlhf.tensors import masked_sum

CLIP = {"clip_low": 0.2, "clip_high": 0.2}
SETTINGS = {name: CLIP if "clip_low" in algorithm.settings else {} for name, algorithm in algorithms.items()}


class Enumerated:
    """A policy over completions of at most 3 tokens of {a, b, end}: logits for each of the 7 prefixes without an end.

    end; a end, b end; and 4 prefixes of two letters with any third token: 1 + 2 + 12 = 15 completions of 1-3 tokens.
    """

    def __init__(self, seed: int):
        letters = "ab"
        self.prefixes = ["", *letters, *map("".join, itertools.product(letters, repeat=2))]
        self.outcomes = ["e", "ae", "be", *(p + last for p in self.prefixes[3:] for last in "abe")]
        generator = torch.Generator().manual_seed(seed)
        self.theta = torch.randn(7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
        self.reward = torch.randn(15, generator=generator, dtype=torch.float64)
        self.mask = torch.tensor([[i < len(o) for i in range(3)] for o in self.outcomes])

    def logp(self) -> Tensor:
        table = self.theta.log_softmax(-1)
        rows = torch.full((15, 3), float("nan"), dtype=torch.float64)  # behind the end: whatever
        for i, outcome in enumerate(self.outcomes):
            for j, token in enumerate(outcome):
                rows[i, j] = table[self.prefixes.index(outcome[:j]), "abe".index(token)]
        return rows

    def probability(self) -> Tensor:
        return masked_sum(self.logp(), self.mask).exp()

    def gradient(self, value: Tensor) -> Tensor:
        return torch.autograd.grad(value, self.theta)[0]

    def ascent(self, adv: Tensor, *, aggregate=sequence_sum, algorithm: Algorithm = algorithms["reinforce"]) -> Tensor:
        """The expected step: every outcome once, its advantage weighed by 15 times its probability."""
        weighed = (15 * self.probability().detach() * adv)[:, None]
        logp = self.logp()
        ratio = algorithm.ratio(logp, logp.detach(), self.mask) if algorithm.ratio else None
        loss = algorithm.surrogate(logp, ratio, weighed, **(CLIP if algorithm.ratio else {}))
        return -self.gradient(aggregate(loss, self.mask, Totals(15, int(self.mask.sum()), 3)))


def test_the_enumeration_is_whole() -> None:
    assert Enumerated(0).probability().sum().item() == pytest.approx(1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("baseline", [0.0, 0.7, -3.0])
def test_reinforce_is_the_gradient_of_the_expected_reward(seed: int, baseline: float) -> None:
    """With completions of unequal length, any baseline, and nothing sampled: equal to 1e-12."""
    policy = Enumerated(seed)
    exact = policy.gradient((policy.probability() * policy.reward).sum())
    reinforce = algorithms["reinforce"]
    adv = reinforce.advantage(policy.reward[:, None], baseline=baseline)[:, 0]
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
    grpo = algorithms["grpo"]
    length = torch.tensor([3, 1, 2, 3])
    mask = torch.arange(3) < length[:, None]
    logp = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    adv = grpo.advantage(torch.tensor([[1.0, 0.0, 0.0, 0.0]])).reshape(-1, 1)
    loss = grpo.surrogate(logp, grpo.ratio(logp, logp.detach(), mask), adv, **CLIP)
    value = grpo.aggregate(loss, mask, Totals(4, int(mask.sum()), 8))
    value.backward()
    z = torch.tensor([[0.75], [-0.25], [-0.25], [-0.25]]) / 0.5001
    torch.testing.assert_close(logp.grad, torch.where(mask, -z / length[:, None] / 4, 0.0))
    assert value.item() == pytest.approx(0, abs=1e-6), "the mean of z scores"


def test_published_settings() -> None:
    """Shao et al. 2024, section 4.1.2: beta 0.04 (k3, in the loss), epsilon as in PPO. Williams: a baseline, no KL."""
    assert algorithms["grpo"].settings == {
        "clip_low": 0.2,
        "clip_high": 0.2,
        "kl_coef": 0.04,
        "kl_in": "loss",
        "kl_estimator": "k3",
    }
    assert algorithms["grpo"].aggregate is aggregates["sequence_mean"]
    assert algorithms["reinforce"].aggregate is aggregates["sequence_sum"]
    assert algorithms["reinforce"].ratio is None


# ------------------------------------------------------------------------- through a model, cut into micro-batches

GROUPS = [
    Group([1, 2, 3], [[4, 5, 6, 7], [8], [9, 9], [4, 5, 6]]),
    Group([7], [[1, 2], [3, 4, 5, 6, 7, 8], [5], [5]]),
]
REWARD = torch.tensor([[1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 1.0, 0.0]])


def step_gradient(model: nn.Module, name: str, groups: list[Group], reward: Tensor, **layout) -> list[Tensor]:
    """The gradient of one optimizer step, as the training loop computes it, off-policy and with a KL term."""
    algorithm = algorithms[name]
    advantage = {"baseline": 0.3} if "baseline" in algorithm.needs else {}
    adv = algorithm.advantage(reward, **advantage).reshape(-1, 1)
    tokens = sum(len(completion) for group in groups for completion in group.completions)
    totals = Totals(sequences=reward.numel(), tokens=tokens, max_new_tokens=8)
    model.zero_grad()
    for rows in micro_batches(groups, **layout):
        scores = Scorer(model)(rows)
        old = scores.logp.detach() + 0.3 * torch.sin(rows.target.float())  # some ratios lie beyond the clip
        ratio = algorithm.ratio(scores.logp, old, scores.mask) if algorithm.ratio else None
        loss = algorithm.surrogate(scores.logp, ratio, adv[rows.sequence], **SETTINGS[name])
        loss = loss + 0.1 * k3(scores.logp, torch.full_like(scores.logp, -3.0))
        algorithm.aggregate(loss, scores.mask, totals).backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("name", algorithms)
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
    grpo = algorithms["grpo"]
    adv = grpo.advantage(torch.full((2, 4), 0.7)).reshape(-1, 1)
    (rows,) = micro_batches(GROUPS, token_budget=10**6)
    scores = Scorer(model)(rows)
    ratio = grpo.ratio(scores.logp, scores.logp.detach(), scores.mask)
    loss = grpo.surrogate(scores.logp, ratio, adv[rows.sequence], **CLIP)
    grpo.aggregate(loss, scores.mask, Totals(8, 20, 8)).backward()
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)
