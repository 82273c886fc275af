"""PPO's critic: values and their loss by hand, its optimizer step, and PPO against loops written from the paper."""

import math
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from accelerate import Accelerator
from tiny_models import tiny_model
from torch import Tensor, nn

from policy_gradients.config import CriticConfig, PolicyGradientConfig
from policy_gradients.credit import whiten
from policy_gradients.critic import Critic, CriticLearner, value_loss
from policy_gradients.defaults import resolve
from policy_gradients.rollout import Batch
from rlhf.aggregate import Totals
from rlhf.groups import Group, micro_batches
from rlhf.run.session import Session

MASK = torch.arange(6) < torch.tensor([6, 3, 1])[:, None]


def drawn(seed: int) -> tuple[Tensor, Tensor]:
    """Rewards and values, with nonsense at padding."""
    generator = torch.Generator().manual_seed(seed)
    reward, value = torch.randn(2, 3, 6, generator=generator)
    return torch.where(MASK, reward, 99.0), torch.where(MASK, value, -77.0)


def test_value_loss_by_hand() -> None:
    """Old value 0, clip 0.2, target 1. A value of 0.1 is within: 0.9^2 / 2. At 0.5 the clipped one is worse: 0.8^2 / 2
    and no gradient. At -0.5 the value itself is worse, 1.5^2 / 2, and is pulled back."""
    value = torch.tensor([[0.1, 0.5, -0.5]], requires_grad=True)
    loss = value_loss(value, torch.zeros(1, 3), torch.ones(1, 3), value_clip=0.2)
    assert loss[0].tolist() == pytest.approx([0.405, 0.32, 1.125])
    loss.sum().backward()
    assert value.grad is not None
    assert value.grad[0].tolist() == pytest.approx([-0.9, 0, -1.5])


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
    ppo = resolve(PolicyGradientConfig(algorithm="ppo", gamma=0.97, gae_lambda=0.9))
    reward, value = drawn(5)
    generator = torch.Generator().manual_seed(1)
    logp_old = -torch.rand(3, 6, generator=generator)
    logp = (logp_old + 0.3 * torch.randn(3, 6, generator=generator)).requires_grad_()
    adv = whiten(ppo.advantage(reward, value, MASK), MASK, Accelerator(cpu=True))
    loss = ppo.surrogate(logp, ppo.ratio(logp, logp_old, MASK), adv, MASK)
    ours = ppo.aggregate(loss, MASK, Totals(3, int(MASK.sum()), 6))
    theirs = ppo_from_the_paper(logp, logp_old, reward, value, MASK, clip=0.2, gamma=0.97, lam=0.9)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for a, b in zip(*(torch.autograd.grad(it, logp) for it in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


# ------------------------------------------------------------ the critic's optimizer step


@pytest.mark.parametrize(("value", "loss", "slope"), [(5.1, 0.405, -0.9), (5.5, 0.32, 0.0), (4.5, 1.125, -1.5)])
def test_the_value_clip_is_around_the_old_value(value: float, loss: float, slope: float) -> None:
    """As in test_value_loss_by_hand, all of it 5 higher: old value 5, target 6, clip 0.2."""
    at = torch.tensor([[value]], requires_grad=True)
    found = value_loss(at, torch.tensor([[5.0]]), torch.tensor([[6.0]]), value_clip=0.2)
    found.sum().backward()
    assert at.grad is not None
    assert (found.item(), at.grad.item()) == (pytest.approx(loss, rel=1e-4), pytest.approx(slope, rel=1e-4))


def test_the_values_of_a_new_critic_are_zero() -> None:
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
    settings_of_critic = CriticConfig(backbone="policy", **settings)
    recipe = resolve(PolicyGradientConfig(algorithm="ppo", group_size=2))
    accelerator = Accelerator(cpu=True)
    layout = {"token_budget": token_budget, "shared_prefix": True}
    session = Mock(spec=Session, accelerator=accelerator, layout=layout, path=tmp_path, prepare=accelerator.prepare)
    policy = tiny_model("qwen3", layers=1)
    made = CriticLearner(session, policy, settings_of_critic, recipe)
    nn.init.normal_(made.critic.head.weight, std=0.1)
    return made


@pytest.mark.parametrize(("warmup", "said"), [(2, 0), (3, 1), (4, 1)])
def test_a_warm_up_that_takes_the_whole_run_is_said(warmup: int, said: int, tmp_path: Path) -> None:
    """Of three batches."""
    settings = CriticConfig(backbone="policy", warmup_batches=warmup)
    recipe = resolve(PolicyGradientConfig(algorithm="ppo", critic=settings, max_steps=3))
    accelerator = Accelerator(cpu=True)
    own = {"accelerator": accelerator, "layout": {}, "path": tmp_path, "prepare": accelerator.prepare}
    session = Mock(spec=Session, console=Mock(), **own)
    CriticLearner(session, tiny_model("qwen3", layers=1), settings, recipe)
    assert [call.args[0][:23] for call in session.console.say.call_args_list] == [
        f"critic.warmup_batches {warmup}"
    ] * said


@pytest.mark.parametrize("token_budget", [1, 8, 10**6])
def test_values_are_in_the_order_of_the_completions(token_budget: int, tmp_path: Path) -> None:
    """Micro-batches come longest first."""
    it, batch = learner(tmp_path, token_budget=token_budget), batch_of(GROUPS)
    it.score(batch)
    value = batch.value
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
    it.score(batch)
    value = batch.value.clone()
    drawn = torch.randn(2, *value.shape, generator=torch.Generator().manual_seed(1))
    old, target = value + drawn[0], drawn[1]
    part, mask = slice(2, 6), batch.mask[2:6]
    now = value[part].clone().requires_grad_()
    wanted = value_loss(now, old[part], target[part], value_clip=0.3)[mask].mean()
    wanted.backward()
    assert now.grad is not None
    slope = now.grad.sum().item()  # the bias is added to each value
    bias = it.critic.head.bias.item()
    batch.value, batch.target = old, target
    it.update(batch.part(slice(1, 3)))
    assert it.loss == pytest.approx(wanted.item(), rel=1e-4)
    assert it.metrics["critic/grad_norm"] >= abs(slope) * 0.999
    assert it.critic.head.bias.item() - bias == pytest.approx(-math.copysign(0.01, slope), rel=1e-3)


def test_a_step_of_the_critic_is_logged_once(tmp_path: Path) -> None:
    """The mean of the losses of its updates, and the gradient norm of the last; then both begin anew."""
    critic, batch = learner(tmp_path, token_budget=10**6), batch_of(GROUPS)
    critic.score(batch)
    batch.target = batch.value + 1
    critic.update(batch)
    loss = critic.loss
    metrics = critic.end_step()
    assert metrics.keys() == {"critic/loss", "critic/grad_norm"}
    assert metrics["critic/loss"] == loss > 0
    assert metrics["critic/grad_norm"] > 0
    assert critic.end_step() == {"critic/loss": 0.0}
