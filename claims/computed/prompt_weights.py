"""How much a prompt counts in the gradient of a batch, by its success rate p.

With rewards 0 and 1, E[adv grad log pi] = w(p) grad p, whatever the policy: given that a completion is right the mean
of grad log pi is grad p / p, given that it is wrong it is -grad p / (1 - p), so w(p) = E[adv | right] - E[adv | wrong].
"""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from claims.computed.advantages import recipe
from claims.computed.enumerated import Enumerated
from claims.computed.exact_noise import right, scores
from policy_gradients.credit import Outcomes, per_completion


def advantage(algorithm: str, reward: Float[Tensor, "r g"]) -> Float[Tensor, "r g"]:
    return per_completion(recipe(algorithm), Outcomes(reward, torch.ones_like(reward, dtype=torch.long)))


def exact_weight(algorithm: str, p: float, *, group_size: int) -> float:
    """w(p), over all groups of right and wrong completions."""
    reward = torch.tensor(list(itertools.product((0.0, 1.0), repeat=group_size)), dtype=torch.float64)
    adv = advantage(algorithm, reward)[:, 0]  # of the first; the chance is that of the others
    chance = torch.where(reward[:, 1:] == 1, p, 1 - p).prod(1)
    first = reward[:, 0] == 1
    return float((chance * adv)[first].sum() - (chance * adv)[~first].sum())


def sampled_weight(policy: Enumerated, algorithm: str, *, group_size: int, groups: int, seed: int) -> float:
    """w(p), as the length along grad p of the mean gradient of sampled groups, by that of grad p."""
    p, reward, score = policy.probability().detach(), right(policy), scores(policy).sum(1)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(p, groups * group_size, replacement=True, generator=generator).view(groups, group_size)
    adv = advantage(algorithm, reward[drawn])
    gradient = (adv.flatten() @ score[drawn.flatten()]) / drawn.numel()
    of_success = (p * reward) @ score
    return float(gradient @ of_success / of_success.square().sum())


def at_success(seed: int, p: float) -> Enumerated:
    """A random policy, moved along the gradient of its log odds of being right until it is right with probability p."""
    policy = Enumerated(seed)
    start = policy.theta.detach()
    chance = policy.probability() @ right(policy)
    direction = policy.gradient(torch.logit(chance))

    def moved(step: float) -> float:
        policy.theta = (start + step * direction).requires_grad_()
        return float(policy.probability().detach() @ right(policy))

    low, high = -1.0, 1.0
    while moved(low) > p:
        low *= 2
    while moved(high) < p:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if moved(middle) < p else (low, middle)
    return policy
