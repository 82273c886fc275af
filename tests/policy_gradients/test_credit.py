"""Credit assignment: rewards of tokens, whitening, the running mean, and where advantages end up."""

import pytest
import torch
from accelerate import Accelerator
from policy_gradient_steps import batch_of_two_prompts
from torch import Tensor

from policy_gradients.advantages import reward_to_go
from policy_gradients.config import PolicyGradientConfig
from policy_gradients.credit import Credit, RunningMean, explained_variance, token_rewards, whiten
from policy_gradients.defaults import resolve

MASK = torch.arange(6) < torch.tensor([6, 3, 1])[:, None]


def drawn(seed: int) -> tuple[Tensor, Tensor]:
    """Rewards and values, with nonsense at padding."""
    generator = torch.Generator().manual_seed(seed)
    reward, value = torch.randn(2, 3, 6, generator=generator)
    return torch.where(MASK, reward, 99.0), torch.where(MASK, value, -77.0)


def test_the_reward_comes_at_the_last_token_and_the_penalty_at_each() -> None:
    rewards = token_rewards(torch.tensor([1.0, 2.0, 3.0]), torch.full((3, 6), 0.25), MASK)
    assert rewards[0].tolist() == [-0.25] * 5 + [0.75]
    assert rewards[1].tolist() == [-0.25, -0.25, 1.75, 0, 0, 0]
    assert rewards[2].tolist() == [2.75, 0, 0, 0, 0, 0]


def test_whitened_over_the_tokens_that_count() -> None:
    x, _ = drawn(2)
    white = whiten(x, MASK, Accelerator(cpu=True))
    assert white[MASK].mean().item() == pytest.approx(0, abs=1e-6)
    assert white[MASK].std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert not white[~MASK].any()
    torch.testing.assert_close(white[MASK], (x[MASK] - x[MASK].mean()) / x[MASK].std(correction=0), atol=1e-5, rtol=0)


def test_explained_variance() -> None:
    outcome, noise = drawn(3)
    accelerator = Accelerator(cpu=True)
    assert explained_variance(outcome, outcome, MASK, accelerator) == pytest.approx(1)
    assert explained_variance(outcome + 5, outcome, MASK, accelerator) == pytest.approx(1), "a constant off is no noise"
    assert explained_variance(torch.zeros(3, 6), outcome, MASK, accelerator) == pytest.approx(0)
    assert explained_variance(-outcome, outcome, MASK, accelerator) == pytest.approx(-3)
    assert explained_variance(noise, torch.ones(3, 6), MASK, accelerator) == 0


def test_one_token_or_none_is_whitened_to_0() -> None:
    """No token counts where all completions were cut and are left out: nothing is divided by 0."""
    x, accelerator = torch.full((1, 2), 5.0), Accelerator(cpu=True)
    for mask in ([[True, False]], [[False, False]]):
        assert whiten(x, torch.tensor(mask), accelerator).tolist() == [[0.0, 0.0]]
    assert whiten(x, torch.tensor([[True, True]]), accelerator).tolist() == [[0.0, 0.0]]


def test_variance_of_one_token_or_none_is_not_explained() -> None:
    accelerator = Accelerator(cpu=True)
    for mask in ([[True, False]], [[False, False]]):
        found = explained_variance(torch.zeros(1, 2), torch.full((1, 2), 5.0), torch.tensor(mask), accelerator)
        assert found == 0


def test_small_outcomes_are_explained_like_large_ones() -> None:
    """Down to a spread of 1e-12, which is rounding: outcomes of +-1e-5 have 1e-10, of +-1e-7 1e-14."""
    accelerator, mask = Accelerator(cpu=True), torch.ones(1, 2, dtype=torch.bool)
    outcome = torch.tensor([[1.0, -1.0]])
    for scale, explained in ((1.0, 0.75), (1e-5, 0.75), (1e-7, 0.0)):
        found = explained_variance(0.5 * scale * outcome, scale * outcome, mask, accelerator)
        assert found == pytest.approx(explained)


def test_sums_are_over_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whitened by mean and spread of the tokens of both: here (1, 3), there (5, 7): mean 4, variance 5."""
    accelerator, mask = Accelerator(cpu=True), torch.ones(1, 2, dtype=torch.bool)
    here, there = torch.tensor([[1.0, 3.0]]), torch.tensor([[5.0, 7.0]])

    def both(numbers: list[float], _accelerator: Accelerator) -> list[float]:
        assert len(numbers) in (3, 5)
        other = [2.0, 12.0, 74.0] if len(numbers) == 3 else [2.0, 0.0, 0.0, 12.0, 74.0]
        return [a + b for a, b in zip(numbers, other, strict=True)]

    monkeypatch.setattr("policy_gradients.credit.all_reduce_sum", both)
    assert whiten(here, mask, accelerator)[0].tolist() == pytest.approx([-3 / 5**0.5, -1 / 5**0.5])
    # Values are right there, and 0 here: errors (1, 3, 0, 0) have variance 10/4 - 1, outcomes 5.
    assert explained_variance(torch.zeros(1, 2), here, mask, accelerator) == pytest.approx(1 - 1.5 / 5)
    assert there.square().sum() == 74


def test_running_mean_is_nine_tenths_of_the_old_and_a_tenth_of_the_new() -> None:
    baseline = RunningMean()
    assert baseline.value is None
    baseline.update(2.0)
    assert baseline.value == 2.0
    baseline.update(3.0)
    assert baseline.value == pytest.approx(2.1)


def test_every_token_of_a_completion_has_its_advantage() -> None:
    """RLOO of two: each reward minus the other one."""
    credit = Credit(resolve(PolicyGradientConfig(algorithm="rloo")), Accelerator(cpu=True))
    batch = batch_of_two_prompts()
    assert credit.assign(batch) == {}
    assert batch.adv.tolist() == [[1] * 3, [-1] * 3, [-2] * 3, [2] * 3]
    assert not batch.target.any()


def test_tokens_that_count_weigh_a_reward() -> None:
    """OPO: tokens 1 and 3 with rewards 1 and 0 have the baseline 1/4. Of the other prompt one completion counts, with
    reward 4; none of a group that the loss leaves out."""
    credit = Credit(resolve(PolicyGradientConfig(algorithm="opo")), Accelerator(cpu=True))
    batch = batch_of_two_prompts()
    assert credit.assign(batch) == {}
    assert batch.adv.tolist() == [[0.75] * 3, [-0.25] * 3, [-2] * 3, [0] * 3]
    batch.mask = torch.zeros_like(batch.mask)
    credit.assign(batch)
    assert batch.adv.isfinite().all()


def test_a_completion_that_the_loss_leaves_out_pays_its_penalty() -> None:
    """A quarter per generated token: the rewards are 1 - 0.25, 0 - 0.75, 2 - 0.5, 4 - 0.25."""
    credit = Credit(resolve(PolicyGradientConfig(algorithm="rloo")), Accelerator(cpu=True))
    batch = batch_of_two_prompts()
    batch.penalty = torch.full((4, 3), 0.25)
    credit.assign(batch)
    assert batch.adv[:, 0].tolist() == [1.5, -1.5, -2.25, 2.25]


def test_the_baseline_of_a_batch_does_not_contain_it() -> None:
    """0 for the first batch of mean 1.75, then its mean; also after a checkpoint."""
    credit = Credit(resolve(PolicyGradientConfig(algorithm="reinforce")), Accelerator(cpu=True))
    batch = batch_of_two_prompts()
    credit.assign(batch)
    assert batch.adv[:, 0].tolist() == [1, 0, 2, 4]
    assert credit.state() == {"baseline": 1.75}
    resumed = Credit(resolve(PolicyGradientConfig(algorithm="reinforce")), Accelerator(cpu=True))
    resumed.load_state(credit.state())
    resumed.assign(batch)
    assert batch.adv[:, 0].tolist() == [1 - 1.75, -1.75, 2 - 1.75, 4 - 1.75]


def test_reward_to_go_by_hand() -> None:
    """gamma 1/2: 1 + 2/2 + 4/4, 2 + 4/2, 4; of each completion by itself."""
    found = reward_to_go(torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, -8.0]]), gamma=0.5)
    assert found.tolist() == [[3.0, 4.0, 4.0], [-2.0, -4.0, -8.0]]
    assert reward_to_go(torch.tensor([[1.0, 2.0]]), gamma=1.0).tolist() == [[3.0, 2.0]]


def test_with_a_critic_each_token_has_its_own_advantage() -> None:
    """PPO: rewards less penalties at their tokens, GAE, whitened over the tokens that count; the target of a value is
    its advantage before whitening, plus itself; explained is the reward-to-go."""
    gamma, lam = 0.5, 0.25
    config = PolicyGradientConfig(algorithm="ppo", gamma=gamma, gae_lambda=lam)
    accelerator = Accelerator(cpu=True)
    batch = batch_of_two_prompts()
    batch.penalty = torch.arange(12.0).view(4, 3) / 10
    batch.value = torch.tensor([[0.5, 0, 0], [0.25, 1.0, -0.5], [0, 0, 0], [2.0, 0, 0]])
    metrics = Credit(resolve(config), accelerator).assign(batch)
    # Rewards of tokens: 1 - 0; -0.3, -0.4, 0 - 0.5; none of the cut one; 4 - 0.9.
    last = -0.5 - -0.5
    middle = -0.4 + gamma * -0.5 - 1.0
    first = -0.3 + gamma * 1.0 - 0.25
    adv = [0.5, first + gamma * lam * (middle + gamma * lam * last), middle + gamma * lam * last, last, 1.1]
    where = ([0, 1, 1, 1, 3], [0, 0, 1, 2, 0])
    assert (batch.target - batch.value)[where].tolist() == pytest.approx(adv)
    mean = sum(adv) / 5
    std = (sum((a - mean) ** 2 for a in adv) / 5) ** 0.5
    assert batch.adv[where].tolist() == pytest.approx([(a - mean) / (std + 1e-8) for a in adv], abs=1e-5)
    assert not batch.adv[~batch.mask].any()
    outcome = torch.tensor([1.0, -0.3 + 0.5 * (-0.4 - 0.25), -0.4 - 0.25, -0.5, 3.1])
    error = outcome - batch.value[where]
    explained = 1 - float(error.var(correction=0) / outcome.var(correction=0))
    assert metrics == {"critic/explained_variance": pytest.approx(explained, abs=1e-5)}


def test_only_a_baseline_is_remembered() -> None:
    credit = Credit(resolve(PolicyGradientConfig(algorithm="rloo")), Accelerator(cpu=True))
    credit.assign(batch_of_two_prompts())
    assert credit.state() == {"baseline": None}
    credit.load_state({})
    assert credit.baseline.value is None
