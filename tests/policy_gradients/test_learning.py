"""Every algorithm learns a toy problem, in seconds, with the project's own parts in a loop of thirty lines."""

import pytest
import torch
from accelerate import Accelerator
from tiny_models import tiny_model
from torch import Tensor

from policy_gradients.algorithms import names
from policy_gradients.config import PolicyGradientConfig
from policy_gradients.credit import Outcomes, call_by_name, per_completion, token_rewards, whiten
from policy_gradients.defaults import resolve
from rlhf.aggregate import Totals
from rlhf.groups import Group, micro_batches
from rlhf.logprobs import Scorer, score
from rlhf.sampling import SampledCompletions, sample

END, WANTED, NEW_TOKENS = 0, 3, 5
SETTINGS = {"vapo": {"length_alpha": 1.0}}  # at the published one, completions of 5 tokens have lambda 0


def rewards_of(sampled: list[SampledCompletions]) -> Tensor:
    return torch.tensor([[tokens.count(WANTED) / NEW_TOKENS for tokens in one.tokens] for one in sampled])


def mean_rewards(name: str, *, steps: int, epochs: int = 1) -> list[float]:
    """Reward: the share of token 3 among the tokens a completion could have had."""
    recipe = resolve(PolicyGradientConfig(algorithm=name, **SETTINGS.get(name, {})))
    model = tiny_model("qwen3", vocabulary=10, layers=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=6e-3)
    scorer, means, prompts = Scorer(model), [], [[5, 6], [7, 8, 9]]
    for step in range(steps):
        how = {"max_new_tokens": NEW_TOKENS, "end_tokens": [END], "keys": [(step, i) for i in range(2)]}
        sampled = sample(model, prompts, completions=16, **how)
        groups = [Group(prompt, one.tokens) for prompt, one in zip(prompts, sampled, strict=True)]
        reward = rewards_of(sampled)
        old = score(scorer, groups, token_budget=10**6, device=torch.device("cpu"))
        mean = sum(means) / max(1, len(means))
        if "token_rewards" in recipe.needs:  # the running mean for a critic: the loop is tested with a real one
            value = torch.full_like(old.logp, mean)
            rewards = token_rewards(reward.flatten(), torch.zeros_like(value), old.mask)
            adv = call_by_name(recipe.advantage, reward=rewards, value=value, mask=old.mask)
        else:
            outcomes = Outcomes(
                reward=(reward > sum(means[-1:])).float() if "binary" in recipe.needs else reward,
                length=old.mask.sum(1).view_as(reward),
                mean_so_far=mean,
                greedy_reward=rewards_of(sample(model, prompts, completions=1, temperature=0, **how)),
                components=torch.stack([reward, (reward > 0.5).float()], -1),
                weights=torch.tensor([1.0, 0.5]),
            )
            adv = per_completion(recipe, outcomes).reshape(-1, 1).expand(-1, old.logp.shape[1])
        if "whitened" in recipe.needs:
            adv = whiten(adv, old.mask, Accelerator(cpu=True))
        means.append(reward.mean().item())
        totals = Totals(sequences=32, tokens=int(old.mask.sum()), max_new_tokens=NEW_TOKENS)
        for _ in range(epochs):
            for rows in micro_batches(groups, token_budget=100):
                scores = scorer(rows)
                logp_old = old.logp[rows.index, : scores.logp.shape[1]]
                ratio = recipe.ratio(scores.logp, logp_old, scores.mask) if recipe.ratio else None
                a = adv[rows.index, : scores.logp.shape[1]]
                loss = recipe.surrogate(scores.logp, ratio, a, scores.mask)
                recipe.aggregate(loss, scores.mask, totals).backward()
            optimizer.step()
            optimizer.zero_grad()
    return means


@pytest.mark.parametrize("name", names())
def test_learns_to_say_three(name: str) -> None:
    """From chance, a tenth of at most 5 tokens, to nearly always."""
    means = mean_rewards(name, steps=22)
    assert means[0] < 0.3
    assert sum(means[-3:]) / 3 > 0.85


def test_several_epochs_a_batch() -> None:
    """GRPO has a ratio: four passes over each batch, clipped, learn in fewer batches."""
    means = mean_rewards("grpo", steps=12, epochs=4)
    assert sum(means[-2:]) / 2 > 0.85
