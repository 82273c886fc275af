"""REINFORCE++, its baseline form, ReMax and GDPO: by hand, against exact gradients, and as steps of the loop."""

import statistics

import pytest
import torch
from accelerate import Accelerator
from enumerated_policy import RECIPES, Enumerated, expected_ascent
from policy_gradient_steps import LONGEST, G, T, all_logp, batch_of_two_prompts, clipped, rows_of, score_of
from steps_by_hand import check_gradient, k3, token_logp

from policy_gradients.config import PolicyGradientConfig
from policy_gradients.credit import Credit, Outcomes, per_completion
from policy_gradients.defaults import resolve
from rlhf.errors import UserError


def assigned(name: str, **settings) -> tuple[Credit, torch.Tensor]:
    """The advantages of test_credit.py's batch: rewards 1, 0 and 2, 4; tokens 1, 3 and 2, 1; the third is cut."""
    batch = batch_of_two_prompts()
    batch.penalty = torch.arange(12.0).view(4, 3) / 10
    credit = Credit(resolve(PolicyGradientConfig(algorithm=name, **settings)), Accelerator(cpu=True))
    assert credit.assign(batch) == {}
    return credit, batch.adv


def test_reinforce_plus_plus_by_hand() -> None:
    """A token is charged its own penalty and those that follow: 1 - 0; 0 - (0.3 + 0.4 + 0.5), 0 - 0.9, 0 - 0.5; none of
    the cut completion; 4 - 0.9. Over these five tokens mean and population std."""
    _, adv = assigned("reinforce_plus_plus")
    to_go = [1.0, -1.2, -0.9, -0.5, 3.1]
    mean, std = statistics.fmean(to_go), statistics.pstdev(to_go)
    assert adv[[0, 1, 1, 1, 3], [0, 0, 1, 2, 0]].tolist() == pytest.approx([(x - mean) / std for x in to_go], abs=1e-5)
    assert not adv[2].any(), "left out of the loss, so in neither mean nor std"


def test_reinforce_plus_plus_discounts() -> None:
    """gamma 1/2, no penalty: the reward 4 of one token; 1; and 0. A reward at the last of three tokens is a quarter at
    the first."""
    batch = batch_of_two_prompts()
    batch.reward = torch.tensor([[1.0, 8.0], [2.0, 4.0]])
    recipe = resolve(PolicyGradientConfig(algorithm="reinforce_plus_plus", gamma=0.5))
    Credit(recipe, Accelerator(cpu=True)).assign(batch)
    to_go = torch.tensor([1.0, 2.0, 4.0, 8.0, 4.0])
    wanted = (to_go - to_go.mean()) / to_go.std(correction=0)
    torch.testing.assert_close(batch.adv[[0, 1, 1, 1, 3], [0, 0, 1, 2, 0]], wanted, atol=1e-5, rtol=0)


def test_reinforce_plus_plus_baseline_by_hand() -> None:
    """Less the penalty of whole completions, rewards are 1, -1.2 and 0.7, 3.1: centered 1.1, -1.1 and -1.2, 1.2. At the
    five tokens that count: 1.1, three times -1.1, 1.2; whitened."""
    _, adv = assigned("reinforce_plus_plus_baseline", kl_in="reward", kl_coef=0.1)
    centered = torch.tensor([1.1, -1.1, -1.1, -1.1, 1.2])
    wanted = (centered - centered.mean()) / centered.std(correction=0)
    torch.testing.assert_close(adv[[0, 1, 1, 1, 3], [0, 0, 1, 2, 0]], wanted, atol=1e-5, rtol=0)


def test_the_batchs_std_does_not_weigh_prompts() -> None:
    """Solved once in four, and twice: the std of its own group makes a success of the first worth 1.7 times one of the
    second; that of the batch 0.75 / 0.5 times, as the baselines are."""
    reward = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    outcomes = Outcomes(reward, torch.ones_like(reward).long())
    of_group = per_completion(RECIPES["grpo"], outcomes)
    of_batch = per_completion(RECIPES["reinforce_plus_plus_baseline"], outcomes)
    assert (of_group[0, 0] / of_group[1, 0]).item() == pytest.approx(3**0.5, rel=1e-3)
    assert (of_batch[0, 0] / of_batch[1, 0]).item() == pytest.approx(1.5)


def test_reinforce_plus_plus_settings() -> None:
    """k1 in the reward, one completion a prompt; with groups k2 in the loss, unless the KL moves to the reward."""
    alone = resolve(PolicyGradientConfig(algorithm="reinforce_plus_plus", group_size=1, kl_coef=0.1))
    assert alone.kl_in_reward
    assert alone.config.kl_estimator == "k1"
    grouped = resolve(PolicyGradientConfig(algorithm="reinforce_plus_plus_baseline", kl_coef=0.1))
    assert (grouped.kl_in_loss, grouped.config.kl_estimator) == (True, "k2")
    moved = resolve(PolicyGradientConfig(algorithm="reinforce_plus_plus_baseline", kl_coef=0.1, kl_in="reward"))
    assert moved.config.kl_estimator == "k1"
    with pytest.raises(UserError, match="group_size"):
        resolve(PolicyGradientConfig(algorithm="reinforce_plus_plus_baseline", group_size=1))


@pytest.mark.parametrize("g", [1, 2])
def test_remax_is_the_gradient_of_the_expected_reward(g: int) -> None:
    """The greedy completion's reward depends on no sample. That of a sampled one in its place is off."""
    policy = Enumerated(4)
    exact = policy.gradient((policy.probability() * policy.reward).sum())
    greedy = policy.reward[policy.probability().argmax()]
    found = expected_ascent("remax", policy, policy.reward, g=g, greedy_reward=greedy.view(1, 1))
    torch.testing.assert_close(found, exact, atol=1e-12, rtol=1e-9)


def test_gdpo_by_hand() -> None:
    """Components (1, 0, 0) and (0, 0, 2): z scores (2, -1, -1) / sqrt 3 and (-1, -1, 2) / sqrt 3, the second at half
    weight: (1.5, -1.5, 0) / sqrt 3. The other group has no contrast in the first and (0, 3, 0) in the second:
    (-0.5, 1, -0.5) / sqrt 3. All six: mean 0, sum of squares (4.5 + 1.5) / 3 = 2, std sqrt(2 / 5)."""
    first, second = [[1.0, 0.0, 0.0], [7.0, 7.0, 7.0]], [[0.0, 0.0, 2.0], [0.0, 3.0, 0.0]]
    components = torch.tensor([first, second]).permute(1, 2, 0)
    known = {"components": components, "weights": torch.tensor([1, 0.5])}
    adv = per_completion(RECIPES["gdpo"], Outcomes(torch.zeros(2, 3), torch.ones(2, 3).long(), **known))
    wanted = torch.tensor([[1.5, -1.5, 0.0], [-0.5, 1.0, -0.5]]) / 3**0.5 / 0.4**0.5
    torch.testing.assert_close(adv, wanted, atol=1e-3, rtol=0)


def test_gdpo_tells_apart_what_grpo_adds_up() -> None:
    """Sums (0, 1) and (0, 2) have one advantage with GRPO: both components right is worth no more than one. Here it is
    worth twice as much. Equal completions have none, exactly."""
    components = torch.tensor([[[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]], [[0.7, 1.0], [0.7, 1.0]]])
    reward = components.sum(-1)
    outcomes = Outcomes(reward, reward.long(), components=components, weights=torch.ones(2))
    added, apart = (per_completion(RECIPES[name], outcomes) for name in ("grpo", "gdpo"))
    assert added[0].tolist() == pytest.approx(added[1].tolist(), abs=1e-3)
    assert (apart[1] / apart[0]).tolist() == pytest.approx([2, 2], rel=1e-3)
    assert apart[2].tolist() == [0, 0]


@pytest.mark.parametrize("penalty", [{"truncated": "penalize"}, {"kl_in": "reward", "kl_coef": 0.1}])
def test_gdpo_refuses_what_is_no_component(penalty: dict) -> None:
    with pytest.raises(UserError, match="normalizes the components"):
        resolve(PolicyGradientConfig(algorithm="gdpo", **penalty))


# ----------------------------------------------------------------------------------------------- steps of the loop


def test_steps_of_reinforce_plus_plus(run) -> None:
    """Two passes: k1 charged at each token and before it, whitened over all tokens, the clip, a mean over tokens."""
    extra = ["--algorithm", "reinforce_plus_plus", "--max_steps", "1", "--epochs_per_batch", "2", "--lr", "0.02"]
    done = run(*extra, "--kl_coef", "0.3")
    (batch,), rows = done.batches, rows_of(done.batches[0])
    old, reference = all_logp(done.steps[0].at(), batch), all_logp(run.reference, batch)
    to_go = []
    for i, r in enumerate(batch.reward.flatten().tolist()):
        reward = -0.3 * (old[i] - reference[i])
        reward[-1] += r
        to_go.append(reward.flip(0).cumsum(0).flip(0))
    flat = torch.cat(to_go)
    adv = [(own - flat.mean()) / flat.std(correction=0) for own in to_go]
    for step in done.steps:
        model = step.at()
        terms = [clipped((token_logp(model, *row, T) - old[i]).exp(), adv[i], 0.2, 0.2) for i, row in enumerate(rows)]
        check_gradient(step, model, torch.cat(terms).mean())


def test_steps_of_remax(run) -> None:
    """The reward of each completion minus that of the greedy one of its prompt, which is cut and charged as any."""
    extra = ["--algorithm", "remax", "--max_steps", "2", "--lr", "0.02", "--truncated", "penalize", "--staleness", "1"]
    done = run(*extra, "--importance", "truncate", "--importance_cap", "1000")
    for batch, step in zip(done.batches, done.steps, strict=True):
        greedy = []
        for rollout in batch.rollouts:
            assert rollout.greedy is not None
            (tokens,), (text,) = rollout.greedy.sampled.tokens, rollout.greedy.texts
            greedy.append(score_of(text) / 48 - max(0, (len(tokens) - 0.8 * LONGEST) / (0.2 * LONGEST)))
        assert batch.greedy_reward is not None
        assert batch.greedy_reward[:, 0].tolist() == pytest.approx(greedy)
        model, loss = step.at(), torch.tensor(0.0)
        sampler = [torch.tensor(logp) for it in batch.rollouts for logp in it.sampled.logp]
        for i, (row, r) in enumerate(zip(rows_of(batch), batch.reward.flatten().tolist(), strict=True)):
            logp = token_logp(model, *row, T)
            weight = (logp.detach() - sampler[i]).exp()
            loss = loss - (weight * (r - greedy[i // G]) * logp).sum() / batch.reward.numel()
        check_gradient(step, model, loss)
    assert done.metrics[0]["reward/greedy"] == pytest.approx(float(done.batches[0].greedy_reward.mean()))


def test_steps_of_gdpo(run) -> None:
    """Two components of the reward, each with its weight; those of weight 0 are measured and have no part."""
    extra = ["--algorithm", "gdpo", "--max_steps", "1", "--lr", "0.02", "--kl_coef", "0.1"]
    done = run(*extra, "--reward_weights.exact", "0.25", "--reward_weights.format", "2")
    (batch,), (step,) = done.batches, done.steps
    apart = []
    for rollout in batch.rollouts:
        values = {name: [own[name] for own in rollout.components] for name in ("mine", "exact")}
        scores = {
            name: [0.0 if len(set(v)) == 1 else (x - statistics.fmean(v)) / (statistics.stdev(v) + 1e-4) for x in v]
            for name, v in values.items()
        }
        apart += [mine + 0.25 * exact for mine, exact in zip(scores["mine"], scores["exact"], strict=True)]
    adv = [(x - statistics.fmean(apart)) / (statistics.stdev(apart) + 1e-4) for x in apart]
    model, reference = step.at(), all_logp(run.reference, batch)
    losses = []
    for i, row in enumerate(rows_of(batch)):
        logp = token_logp(model, *row, T)
        losses.append((-adv[i] * (logp - logp.detach()).exp() + 0.1 * k3(logp, reference[i])).mean())
    check_gradient(step, model, torch.stack(losses).mean())
