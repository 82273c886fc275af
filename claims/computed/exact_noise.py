"""The noise of the gradient without sampling: every group of completions of enumerated policies, by its probability."""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from claims.computed.advantages import ADVANTAGES, Groups, best_baseline
from claims.computed.enumerated import Enumerated
from policy_gradients.advantages import gae
from policy_gradients.credit import token_rewards

OTHER = 1000  # between the seeds of the prompts of one seed


def exact_noise(seed: int, *, prompts: int, group_size: int) -> dict[str, float]:
    """E |g - E g|^2 / |E g|^2 of one group for each of several prompts, each a policy of its own with rewards 0 and 1.

    "perfect critic" knows the expected reward behind every token: PPO's advantage with gae_lambda 1.
    """
    policies = [Enumerated(seed + OTHER * i) for i in range(prompts)]
    all_groups = torch.tensor(list(itertools.product(range(15), repeat=group_size)))  # (r, g)
    everywhere = torch.stack([success(policy) for policy in policies]).mean()
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for policy in policies:
        p, reward, score = policy.probability().detach(), right(policy), scores(policy)
        groups = Groups(
            reward=reward[all_groups][:, None],
            length=policy.mask.sum(1)[all_groups][:, None],
            greedy=reward[p.argmax()][None],
            success=success(policy)[None],
            best=best_baseline(reward[None], score.sum(1).square().sum(1)[None], p[None]),
        )
        chance = p[all_groups].prod(1)
        for name, advantage in ADVANTAGES.items():
            adv = (groups.reward - everywhere if name == "running mean" else advantage(groups))[:, 0]
            used = all_groups[:, : adv.shape[1]]
            gradient = (adv[..., None] * score.sum(1)[used]).mean(1)
            found.setdefault(name, []).append(moments(chance, gradient))
        mean, variance = moments(p, (critics_advantage(policy, reward)[..., None] * score).sum(1))
        found.setdefault("perfect critic", []).append((mean, variance / group_size))
    return {name: ratio(own) for name, own in found.items()}


def right(policy: Enumerated) -> Float[Tensor, " n"]:
    return (policy.reward > 0).double()


def success(policy: Enumerated) -> Float[Tensor, ""]:
    return policy.probability().detach() @ right(policy)


def scores(policy: Enumerated) -> Float[Tensor, "n t p"]:
    """The gradient of log pi of each token with respect to all logits: one-hot minus softmax, in the token's state."""
    table = policy.theta.detach().softmax(-1)
    found = torch.zeros(*policy.mask.shape, *table.shape, dtype=torch.float64)
    for i, outcome in enumerate(policy.outcomes):
        for j, token in enumerate(outcome):
            state = policy.prefixes.index(outcome[:j])
            found[i, j, state] = -table[state]
            found[i, j, state, "abe".index(token)] += 1
    return found.flatten(2)


def critics_advantage(policy: Enumerated, reward: Float[Tensor, " n"]) -> Float[Tensor, "n t"]:
    """The reward minus the expected reward in each token's state."""
    p = policy.probability().detach()
    goes = policy.goes_on.double()
    of_state = (goes @ (p * reward)) / (goes @ p)
    value = torch.zeros(policy.mask.shape, dtype=torch.float64)
    for i, outcome in enumerate(policy.outcomes):
        for j in range(len(outcome)):
            value[i, j] = of_state[policy.prefixes.index(outcome[:j])]
    at_the_end = token_rewards(reward, torch.zeros_like(value), policy.mask)
    return gae(at_the_end, value, policy.mask, gamma=1.0, gae_lambda=1.0)


def moments(chance: Float[Tensor, " r"], gradient: Float[Tensor, "r p"]) -> tuple[Tensor, Tensor]:
    """Mean (p,) and variance, the expected squared distance from it."""
    mean = chance @ gradient
    return mean, chance @ (gradient - mean).square().sum(1)


def ratio(of_prompts: list[tuple[Tensor, Tensor]]) -> float:
    """Variance by squared length of the mean, of the gradient of all prompts, which have no weight in common."""
    return float(sum(variance for _, variance in of_prompts) / sum(mean.square().sum() for mean, _ in of_prompts))
