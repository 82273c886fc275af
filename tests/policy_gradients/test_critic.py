"""PPO's critic: advantages over tokens, values and their loss, against closed forms and a reference from the paper."""

import pytest
import torch
from accelerate import Accelerator
from tiny_models import tiny_model
from torch import Tensor

from policy_gradients.advantages import gae
from policy_gradients.critic import Critic, explained_variance, reward_to_go, token_rewards, value_loss, whiten
from rlhf.groups import Group, micro_batches

MASK = torch.arange(6) < torch.tensor([6, 3, 1])[:, None]


def drawn(seed: int) -> tuple[Tensor, Tensor]:
    """Rewards and values, with nonsense at padding."""
    generator = torch.Generator().manual_seed(seed)
    reward, value = torch.randn(2, 3, 6, generator=generator)
    return torch.where(MASK, reward, 99.0), torch.where(MASK, value, -77.0)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (0.99, 0.0), (0.8, 1.0)])
def test_gae_is_its_definition(gamma: float, lam: float) -> None:
    """Schulman et al. 2015, eq. 16: adv_t = sum_l (gamma lam)^l delta_(t+l), each completion by itself, unpadded."""
    reward, value = drawn(0)
    adv = gae(reward, value, MASK, gamma=gamma, gae_lambda=lam)
    for i, length in enumerate((6, 3, 1)):
        v = [*value[i, :length].tolist(), 0.0]
        delta = [reward[i, t].item() + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            wanted = sum((gamma * lam) ** k * delta[t + k] for k in range(length - t))
            assert adv[i, t].item() == pytest.approx(wanted, abs=1e-5)
    assert not adv[~MASK].any()


def test_gae_at_its_ends() -> None:
    """lambda 1: reward-to-go less the value. lambda 0: one step. Values that are right give no advantage."""
    reward, value = drawn(1)
    to_go = reward_to_go(torch.where(MASK, reward, 0.0), gamma=0.9)
    torch.testing.assert_close(gae(reward, value, MASK, gamma=0.9, gae_lambda=1.0), (to_go - value) * MASK)
    right = gae(reward, to_go, MASK, gamma=0.9, gae_lambda=0.7)
    torch.testing.assert_close(right, torch.zeros_like(right), atol=1e-6, rtol=0)
    one_step = gae(reward, value, MASK, gamma=0.5, gae_lambda=0.0)
    assert one_step[1, 0].item() == pytest.approx((reward[1, 0] + 0.5 * value[1, 1] - value[1, 0]).item(), abs=1e-6)
    assert one_step[1, 2].item() == pytest.approx((reward[1, 2] - value[1, 2]).item(), abs=1e-6)


def test_the_reward_comes_at_the_last_token_and_the_penalty_at_each() -> None:
    rewards = token_rewards(torch.tensor([1.0, 2.0, 3.0]), torch.full((3, 6), 0.25), MASK)
    assert rewards[0].tolist() == [-0.25] * 5 + [0.75]
    assert rewards[1].tolist() == [-0.25, -0.25, 1.75, 0, 0, 0]
    assert rewards[2].tolist() == [2.75, 0, 0, 0, 0, 0]


def test_value_loss_by_hand() -> None:
    """Old value 0, clip 0.2, target 1. A value of 0.1 is within: 0.9^2 / 2. At 0.5 the clipped one is worse: 0.8^2 / 2
    and no gradient. At -0.5 the value itself is worse, 1.5^2 / 2, and is pulled back."""
    value = torch.tensor([[0.1, 0.5, -0.5]], requires_grad=True)
    loss = value_loss(value, torch.zeros(1, 3), torch.ones(1, 3), value_clip=0.2)
    assert loss[0].tolist() == pytest.approx([0.405, 0.32, 1.125])
    loss.sum().backward()
    assert value.grad is not None
    assert value.grad[0].tolist() == pytest.approx([-0.9, 0, -1.5])


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

    monkeypatch.setattr("policy_gradients.critic.total", both)
    assert whiten(here, mask, accelerator)[0].tolist() == pytest.approx([-3 / 5**0.5, -1 / 5**0.5])
    # Values are right there, and 0 here: errors (1, 3, 0, 0) have variance 10/4 - 1, outcomes 5.
    assert explained_variance(torch.zeros(1, 2), here, mask, accelerator) == pytest.approx(1 - 1.5 / 5)
    assert there.square().sum() == 74


@pytest.mark.parametrize("backbone", ["own", "policy"])
def test_values_are_those_of_the_states_before_each_token(backbone: str) -> None:
    """In shared-prefix rows as in padded ones: the head on the hidden state that predicts the token."""
    policy = tiny_model("llama")
    critic = Critic(policy, backbone=backbone)
    torch.nn.init.normal_(critic.head.weight, std=0.1)
    group = Group([5, 6, 7], [[1, 2, 3], [4, 4]])
    (rows,) = micro_batches([group], token_budget=100)
    value = critic(rows)
    for i, completion in enumerate(group.completions):
        ids = torch.tensor([[*group.prompt, *completion]])
        states = policy.base_model(input_ids=ids).last_hidden_state[0, 2:-1]
        torch.testing.assert_close(value[i, : len(completion)], critic.head(states).squeeze(-1), atol=1e-5, rtol=0)
    assert value[1, 2] == 0
    value.sum().backward()
    assert (policy.base_model.embed_tokens.weight.grad is None) is True, "the policy's weights are not the critic's"
    trained = [p for p in critic.parameters() if p.requires_grad]
    assert len(trained) == (2 if backbone == "policy" else 2 + len(list(policy.base_model.parameters())))


def ppo_from_the_paper(logp, logp_old, reward, value, mask, *, clip: float, gamma: float, lam: float) -> Tensor:
    """Eq. 7 and 11-12 of Schulman et al. 2017 with loops and no tensors' help, over unpadded completions."""
    advantages, terms = [], []
    for i in range(len(mask)):
        length = int(mask[i].sum())
        later, row = 0.0, []
        for t in reversed(range(length)):
            following = value[i, t + 1].item() if t + 1 < length else 0.0
            later = reward[i, t].item() + gamma * following - value[i, t].item() + gamma * lam * later
            row.insert(0, later)
        advantages.append(row)
    flat = torch.tensor([a for row in advantages for a in row])
    mean, std = flat.mean().item(), flat.std(correction=0).item()
    for i, row in enumerate(advantages):
        for t, a in enumerate(row):
            r, a = (logp[i, t] - logp_old[i, t]).exp(), (a - mean) / (std + 1e-8)
            terms.append(torch.min(r * a, r.clamp(1 - clip, 1 + clip) * a))
    return -torch.stack(terms).mean()


def test_ppo_is_the_papers() -> None:
    from policy_gradients.algorithms import algorithms
    from rlhf.aggregate import Totals

    ppo, (reward, value) = algorithms["ppo"], drawn(5)
    generator = torch.Generator().manual_seed(1)
    logp_old = -torch.rand(3, 6, generator=generator)
    logp = (logp_old + 0.3 * torch.randn(3, 6, generator=generator)).requires_grad_()
    adv = whiten(ppo.advantage(reward, value, MASK, gamma=0.97, gae_lambda=0.9), MASK, Accelerator(cpu=True))
    loss = ppo.surrogate(logp, ppo.ratio(logp, logp_old, MASK), adv, clip_low=0.2, clip_high=0.2)
    ours = ppo.aggregate(loss, MASK, Totals(3, int(MASK.sum()), 6))
    theirs = ppo_from_the_paper(logp, logp_old, reward, value, MASK, clip=0.2, gamma=0.97, lam=0.9)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for a, b in zip(*(torch.autograd.grad(it, logp) for it in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
