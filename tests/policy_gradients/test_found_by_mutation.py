"""What a change of sign, side, denominator or setting could do without being seen by the other tests."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from tiny_models import tiny_model
from torch import nn

from policy_gradients import rollout
from policy_gradients.advantages import gae, over_mean
from policy_gradients.algorithms import algorithms
from policy_gradients.config import CriticConfig, PolicyGradientConfig, RewardWeights
from policy_gradients.critic import Critic, CriticLearner, value_loss
from policy_gradients.defaults import resolve
from policy_gradients.ratios import importance, sequence_ratio, token_ratio
from policy_gradients.reference import Reference
from policy_gradients.rewards import Judge
from policy_gradients.rollout import Batch, Rollout, Sampler
from policy_gradients.surrogates import clipped
from rlhf.embedded.make import character_tokenizer
from rlhf.errors import UserError
from rlhf.groups import Group, micro_batches
from rlhf.sampling import Sampled
from rlhf.tasks.problem import Verdict
from rlhf.tasks.procedural import ProceduralTask

# ------------------------------------------------------------------------------------------------- what algorithms are

CHOICES = {
    "cispo": ("z_score", "token_ratio", "weighted", "token_mean"),
    "dapo": ("z_score", "token_ratio", "clipped", "token_mean"),
    "drgrpo": ("centred", "token_ratio", "clipped", "fixed_length"),
    "grpo": ("z_score", "token_ratio", "clipped", "sequence_mean"),
    "gspo": ("z_score", "sequence_ratio", "clipped", "sequence_mean"),
    "maxrl": ("over_mean", None, "reinforce", "sequence_mean"),
    "ppo": ("gae", "token_ratio", "clipped", "token_mean"),
    "reinforce": ("less_baseline", None, "reinforce", "sequence_sum"),
    "rloo": ("leave_one_out", None, "reinforce", "sequence_sum"),
    "sapo": ("z_score", "token_ratio", "soft_gate", "sequence_mean"),
}
NEEDS = {"maxrl": {"groups", "binary"}, "ppo": {"critic"}, "reinforce": {"baseline"}}  # the others: groups

# Those that the papers named in each algorithm's file give.
PUBLISHED = {
    "cispo": {"clip_high": 4.0, "kl_coef": 0.0},
    "dapo": {"clip_low": 0.2, "clip_high": 0.28, "resample_rounds": 4, "truncated": "penalize", "overlong_buffer": 0.2},
    "drgrpo": {"clip_low": 0.2, "clip_high": 0.2, "kl_coef": 0.0},
    "gspo": {"clip_low": 3e-4, "clip_high": 4e-4, "kl_coef": 0.0},
    "maxrl": {"kl_coef": 0.0, "kl_in": "loss"},
    "ppo": {"clip_low": 0.2, "clip_high": 0.2, "gamma": 1.0, "gae_lambda": 0.95, "kl_coef": 0.02, "kl_in": "reward"},
    "rloo": {"kl_coef": 0.0, "kl_in": "reward", "kl_estimator": "k1"},
    "sapo": {"tau_pos": 1.0, "tau_neg": 1.05, "kl_coef": 0.0},
}


@pytest.mark.parametrize("name", algorithms)
def test_the_four_choices(name: str) -> None:
    """Written out once more: with another aggregation, each of them learns all the same, and nothing would be seen."""
    it = algorithms[name]
    found = tuple(f and f.__name__ for f in (it.advantage, it.ratio, it.surrogate, it.aggregate))
    assert found == CHOICES[name]
    assert it.needs == NEEDS.get(name, {"groups"})
    for key, value in PUBLISHED.get(name, {}).items():
        assert it.settings[key] == value, key
        assert getattr(resolve(PolicyGradientConfig(algorithm=name))[0], key) == value, key


# ------------------------------------------------------------------------------------------- advantages, ratios, clips


def test_gae_does_not_read_padding() -> None:
    """A value behind the end would be the next value of the last token; a reward there would flow back."""
    mask = torch.tensor([[True, True, False, False]])
    reward = torch.tensor([[0.0, 1.0, 50.0, 50.0]])
    for value in (torch.tensor([[0.2, 0.4, 99.0, 99.0]]), torch.tensor([[0.2, 0.4, -7.0, 0.0]])):
        adv = gae(reward, value, mask, gamma=0.5, gae_lambda=0.5)
        assert adv[0].tolist() == pytest.approx([0.5 * 0.4 - 0.2 + 0.25 * 0.6, 1 - 0.4, 0, 0])


def test_success_is_all_or_nothing() -> None:
    """(r - mean) / mean of partial credit is not the gradient of the log of anything."""
    with pytest.raises(ValueError, match=r"0 or 1, found 0\.5"):
        over_mean(torch.tensor([[1.0, 0.0, 0.5]]))


def test_importance_by_hand() -> None:
    """pi / sampler = 2, 1/10, 10 and, where the mask is False, 1. Above the cap of 2.5: 2.5, or 0; below, no bound.
    Never a gradient."""
    logp = torch.tensor([[0.4, 0.02, 0.2, 0.9]]).log().requires_grad_()
    sampler = torch.tensor([[0.2, 0.2, 0.02, 0.1]]).log()
    mask = torch.tensor([[True, True, True, False]])
    cut = importance(logp, sampler, mask, correction="truncate", cap=2.5)
    dropped = importance(logp, sampler, mask, correction="mask", cap=2.5)
    assert cut[0].tolist() == pytest.approx([2, 0.1, 2.5, 1], rel=1e-5)
    assert dropped[0].tolist() == pytest.approx([2, 0.1, 0, 1], rel=1e-5)
    assert not cut.requires_grad
    assert not dropped.requires_grad


@pytest.mark.parametrize("ratio", [token_ratio, sequence_ratio])
@pytest.mark.parametrize("gap", [1e3, -1e3])
def test_far_ratios_have_no_gradient(ratio, gap: float) -> None:
    """Clamped before the exp: exp(20) at most, and a gradient of 0, not inf or nan."""
    logp = torch.full((2, 3), gap, requires_grad=True)
    found = ratio(logp, torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool))
    found.sum().backward()
    torch.testing.assert_close(found, torch.full((2, 3), math.exp(math.copysign(20, gap))))
    assert logp.grad is not None
    assert not logp.grad.any()


def test_sequence_ratio_by_hand() -> None:
    """Log-ratios (0.3, 0.1) and (0.6): means 0.2 and 0.6, whatever stands at padding; each token moves its share."""
    logp = torch.tensor([[-0.7, -0.9], [-0.4, 55.0]], requires_grad=True)
    mask = torch.tensor([[True, True], [True, False]])
    ratio = sequence_ratio(logp, torch.full((2, 2), -1.0), mask)
    assert ratio[:, 0].tolist() == pytest.approx([math.exp(0.2), math.exp(0.6)])
    ratio[:, 0].sum().backward()
    assert logp.grad is not None
    assert logp.grad[0].tolist() == pytest.approx([math.exp(0.2) / 2] * 2)
    assert logp.grad[1].tolist() == pytest.approx([math.exp(0.6), 0])


@pytest.mark.parametrize(
    ("ratio", "adv", "loss", "slope"),
    [(2.0, -1.0, 2.0, 1.0), (4.0, -1.0, 3.0, 0.0), (0.5, -1.0, 0.8, 0.0), (4.0, 1.0, -1.5, 0.0), (1.4, 1.0, -1.4, -1)],
)
def test_dual_clip_by_hand(ratio: float, adv: float, loss: float, slope: float) -> None:
    """dual_clip 3: with adv < 0, a ratio counts as 3 at most. (loss, d loss / d ratio); clips at 0.8 and 1.5."""
    at = torch.tensor([[ratio]], requires_grad=True)
    found = clipped(torch.zeros(1, 1), at, torch.tensor([[adv]]), clip_low=0.2, clip_high=0.5, dual_clip=3.0)
    found.sum().backward()
    assert at.grad is not None
    assert (found.item(), at.grad.item()) == (pytest.approx(loss), pytest.approx(slope))


def test_a_tight_dual_clip_leaves_the_praised_alone() -> None:
    """dual_clip 1.2 is below the upper clip, 1.5: it bounds tokens with adv < 0 only."""
    ratio, adv = torch.tensor([[1.4, 1.4]]), torch.tensor([[1.0, -1.0]])
    found = clipped(torch.zeros(1, 2), ratio, adv, clip_low=0.2, clip_high=0.5, dual_clip=1.2)
    assert found[0].tolist() == pytest.approx([-1.4, 1.2])


# ------------------------------------------------------------------------------------------------------------- critic


@pytest.mark.parametrize(("value", "loss", "slope"), [(5.1, 0.405, -0.9), (5.5, 0.32, 0.0), (4.5, 1.125, -1.5)])
def test_the_value_clip_is_around_the_old_value(value: float, loss: float, slope: float) -> None:
    """As in test_value_loss_by_hand, all of it 5 higher: old value 5, target 6, clip 0.2."""
    at = torch.tensor([[value]], requires_grad=True)
    found = value_loss(at, torch.tensor([[5.0]]), torch.tensor([[6.0]]), value_clip=0.2)
    found.sum().backward()
    assert at.grad is not None
    assert (found.item(), at.grad.item()) == (pytest.approx(loss, rel=1e-4), pytest.approx(slope, rel=1e-4))


def test_the_first_guess_is_zero() -> None:
    (rows,) = micro_batches([Group([5, 6], [[1, 2, 3], [4]])], token_budget=100)
    assert not Critic(tiny_model("llama", layers=1), backbone="policy")(rows).any()


def batch_of(groups: list[Group]) -> Batch:
    length = torch.tensor([len(completion) for group in groups for completion in group.completions])
    mask = torch.arange(int(length.max())) < length[:, None]
    return Batch(
        rollouts=[],
        groups=groups,
        reward=torch.zeros(len(groups), 2),
        length=length,
        truncated=torch.zeros(len(length), dtype=torch.bool),
        logp_sampler=torch.zeros(mask.shape),
        mask=mask,
    )


GROUPS = [
    Group([1, 2], [[3], [4, 5]]),
    Group([7], [[1, 2, 3, 4], [5]]),
    Group([8, 9, 10], [[1, 2], [3, 4, 5, 6, 7]]),
    Group([4], [[9], [9, 8]]),
]


def learner(tmp_path: Path, *, token_budget: int, **settings: float) -> CriticLearner:
    torch.manual_seed(0)
    config = PolicyGradientConfig(algorithm="ppo", group_size=2, critic=CriticConfig(backbone="policy", **settings))
    layout = {"token_budget": token_budget, "shared_prefix": True}
    it = CriticLearner(tiny_model("qwen3", layers=1), resolve(config)[0], Accelerator(cpu=True), layout, tmp_path)
    nn.init.normal_(it.critic.head.weight, std=0.1)
    return it


@pytest.mark.parametrize("token_budget", [1, 8, 10**6])
def test_values_are_in_the_order_of_the_completions(token_budget: int, tmp_path: Path) -> None:
    """Micro-batches come longest first."""
    it, batch = learner(tmp_path, token_budget=token_budget), batch_of(GROUPS)
    value = it.values(batch)
    for i, group in enumerate(single for both in GROUPS for single in both.split()):
        (rows,) = micro_batches([group], token_budget=100)
        length = rows.mask.shape[1]
        torch.testing.assert_close(value[i, :length], it.critic(rows)[0], atol=1e-5, rtol=0)
        assert not value[i, length:].any()


@pytest.mark.parametrize("token_budget", [1, 10**6])
def test_the_critic_learns_from_its_part_of_the_batch(token_budget: int, tmp_path: Path) -> None:
    """Prompts 1 and 2 of 4: their own old values and targets, the mean over their tokens, a step of Adam at its lr."""
    it, batch = (
        learner(tmp_path, token_budget=token_budget, lr=0.01, value_clip=0.3, max_grad_norm=1e6),
        batch_of(GROUPS),
    )
    value = it.values(batch)
    drawn = torch.randn(2, *value.shape, generator=torch.Generator().manual_seed(1))
    old, target = value + drawn[0], drawn[1]
    part, mask = slice(2, 6), batch.mask[2:6]
    now = value[part].clone().requires_grad_()
    wanted = value_loss(now, old[part], target[part], value_clip=0.3)[mask].mean()
    wanted.backward()
    assert now.grad is not None
    slope = now.grad.sum().item()  # the bias is added to each value
    bias = it.critic.head.bias.item()
    loss, norm = it.update(batch, range(1, 3), old, target)
    assert loss == pytest.approx(wanted.item(), rel=1e-4)
    assert norm >= abs(slope) * 0.999
    assert it.critic.head.bias.item() - bias == pytest.approx(-math.copysign(0.01, slope), rel=1e-3)


# ---------------------------------------------------------------------------------------------------------- reference


def reference(**settings: float) -> Reference:
    return Reference(tiny_model("llama", layers=1), resolve(PolicyGradientConfig(kl_coef=0.1, **settings))[0])


@pytest.mark.parametrize(
    ("kl", "coef"), [(0.05, 0.1), (0.055, 0.101), (0.045, 0.099), (5.0, 0.102), (0.0, 0.098), (-1.0, 0.098)]
)
def test_the_price_of_kl_rises_when_there_is_too_much(kl: float, coef: float) -> None:
    """Target 0.05: a tenth more or less moves the coefficient by 1 %, and nothing by more than 2 %."""
    it = reference(kl_target=0.05)
    it.adapt(kl)
    assert it.coef == pytest.approx(coef)


def test_without_a_target_the_price_stays() -> None:
    it = reference()
    it.adapt(5.0)
    assert it.coef == 0.1


def test_the_reference_follows_every_so_often() -> None:
    """Every second step, three quarters of itself and a quarter of the policy, which stays what it is."""
    it, policy = reference(sync_reference_every=2, sync_reference_mix=0.25), tiny_model("llama", layers=1, seed=1)
    before, its = ([p.clone() for p in model.parameters()] for model in (it.model, policy))
    it.follow(policy, 1)
    assert all(torch.equal(a, b) for a, b in zip(it.model.parameters(), before, strict=True))
    it.follow(policy, 2)
    for mine, a, b in zip(it.model.parameters(), before, its, strict=True):
        torch.testing.assert_close(mine, 0.75 * a + 0.25 * b)
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), its, strict=True))
    frozen = reference()
    frozen.follow(policy, 2)
    assert all(torch.equal(a, b) for a, b in zip(frozen.model.parameters(), before, strict=True))


# ------------------------------------------------------------------------------------------------ rewards and rollouts

TASK = ProceduralTask("spell_backward", {"min_word_len": 3, "max_word_len": 6}, answer_in="text")
(PROBLEM,) = TASK.train_problems(seed=0, first=0, count=1)


def test_parts_are_named_for_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TASK, "verify", lambda *_: Verdict(exact=0.0, format=1.0, partial=0.25))
    judge = Judge(TASK, RewardWeights(exact=8, format=4, partial=2), {})
    parts = judge.parts(PROBLEM, "")
    assert parts == {"exact": 0.0, "format": 1.0, "partial": 0.25, "unverified": 0.0}
    assert judge.weigh(parts) == 4.5


def test_own_functions_are_told_which_is_the_answer(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        f"def right(question, completion, answer):\n    return 10.0 * (answer == {PROBLEM.answer!r})\n"
    )
    (tmp_path / "endless.py").write_text("def f(question, completion, answer):\n    return float('inf')\n")
    judge = Judge(TASK, RewardWeights(), {f"{tmp_path}/mine.py:right": 1.0})
    assert judge.parts(PROBLEM, "something else")["right"] == 10
    with pytest.raises(UserError, match="finite"):
        Judge(TASK, RewardWeights(), {f"{tmp_path}/endless.py:f": 1.0}).parts(PROBLEM, "")


def test_what_the_config_says_of_sampling_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings, keys and prompts as `sample` gets them. A problem's key is its number, wherever it stands."""
    calls = []

    def spy(_model: nn.Module, prompts: list[list[int]], *, completions: int, **how: object) -> list[Sampled]:
        calls.append((prompts, {"completions": completions, **how}))
        one = Sampled(tokens=[[9]] * completions, logp=[[-1.0]] * completions, truncated=[False] * completions)
        return [one] * len(prompts)

    monkeypatch.setattr(rollout, "sample", spy)
    tokenizer = character_tokenizer()
    given = {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "sampling_batch": 11, "max_new_tokens": 13, "group_size": 3}
    config, _ = resolve(PolicyGradientConfig(**given, seed=4, prompts_per_step=2, system_prompt="Be brief."))
    judge = Judge(TASK, config.reward_weights, {})
    it = Sampler(tiny_model("qwen3", layers=1), tokenizer, TASK, judge, Accelerator(cpu=True), config)
    rollouts, following = it.draw(6)
    ((prompts, how),) = calls
    assert following == 8
    assert how == {
        "completions": 3, "max_new_tokens": 13, "end_tokens": it.end_tokens, "keys": [(4, 6), (4, 7)],
        "temperature": 0.7, "top_k": 5, "top_p": 0.9, "batch": 11,
    }  # fmt: skip
    for prompt, made in zip(prompts, rollouts, strict=True):
        assert made.prompt == prompt
        assert "Be brief." in tokenizer.decode(prompt)
        assert made.problem.question in tokenizer.decode(prompt)


def test_contrast_is_right_and_wrong_whatever_is_paid() -> None:
    """Two wrong completions of unequal reward have none; a right and a wrong one have it, though both earn the same."""

    def rollout_of(exact: list[float], reward: list[float]) -> Rollout:
        parts = [
            {"exact": e, "format": float(i), "partial": r} for i, (e, r) in enumerate(zip(exact, reward, strict=True))
        ]
        return Rollout(0, PROBLEM, [1], Sampled([], [], []), [], parts, reward)

    assert not rollout_of([0.0, 0.0], [0.1, 0.7]).contrast
    assert rollout_of([1.0, 0.0], [0.5, 0.5]).contrast


def sampler_of(**settings: object) -> Sampler:
    config, _ = resolve(PolicyGradientConfig(**settings))
    judge = Judge(TASK, config.reward_weights, {})
    return Sampler(tiny_model("qwen3", layers=1), character_tokenizer(), TASK, judge, Accelerator(cpu=True), config)


def test_resampling_ends_when_the_batch_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each group has contrast, so one round of two prompts is enough."""
    one = Sampled(tokens=[[9], [9]], logp=[[-1.0], [-1.0]], truncated=[False, False])
    monkeypatch.setattr(rollout, "sample", lambda _model, prompts, **_: [one] * len(prompts))
    it, verdicts = sampler_of(prompts_per_step=2, group_size=2, resample_rounds=5), itertools.cycle([1.0, 0.0])
    monkeypatch.setattr(it.judge, "parts", lambda *_: {"exact": next(verdicts), "format": 1.0, "partial": 0.0})
    rollouts, following = it.draw(0)
    assert ([made.number for made in rollouts], following) == ([0, 1], 2)


def test_the_mask_ends_with_the_completion() -> None:
    it = sampler_of(group_size=3)
    lengths = (1, 3, 2)
    sampled = Sampled([[9] * n for n in lengths], [[-1.0] * n for n in lengths], [False] * 3)
    batch = it.batch(it.judged([(0, PROBLEM, [1])], [sampled]))
    assert batch.mask.tolist() == [[True, False, False], [True] * 3, [True, True, False]]
    assert batch.logp_sampler.tolist() == [[-1, 0, 0], [-1, -1, -1], [-1, -1, 0]]


def test_the_overlong_penalty_grows_within_the_buffer() -> None:
    """Of 10 tokens the last half is charged: 0.4 at 7 tokens, 1 at 10; nothing where the config does not ask for it."""
    for how, charged in (("penalize", [0.0, 0.4, 1.0]), ("keep", [0.0] * 3), ("mask", [0.0] * 3)):
        it = sampler_of(max_new_tokens=10, truncated=how, overlong_buffer=0.5)
        lengths = (5, 7, 10)
        sampled = Sampled([[9] * n for n in lengths], [[0.0] * n for n in lengths], [False, False, True])
        (made,) = it.judged([(0, PROBLEM, [1])], [sampled])
        assert made.reward == pytest.approx([-c for c in charged])


# ----------------------------------------------------------------------------------------------------------- resolving


def test_a_binary_reward_without_kl_may_say_where_it_would_be() -> None:
    """`kl_in: reward` changes no reward where its coefficient is 0."""
    assert resolve(PolicyGradientConfig(algorithm="maxrl", kl_in="reward"))[0].kl_in == "reward"


def test_partial_credit_is_not_binary() -> None:
    with pytest.raises(UserError, match=r"reward_weights\.partial"):
        resolve(PolicyGradientConfig(algorithm="maxrl", reward_weights=RewardWeights(partial=0.1)))
