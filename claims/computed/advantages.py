"""The arms that are compared by the noise of their gradient: each algorithm's own advantage, on groups of completions.

Shapes: r groups of each of b prompts, g completions a group. The loss is the sum over tokens for all, so that the
advantage is all that differs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from policy_gradients.config import PolicyGradientConfig
from policy_gradients.credit import Outcomes, RunningMean, per_completion
from policy_gradients.defaults import Recipe, resolve

GROUPED = {"RLOO": "rloo", "GRPO": "grpo", "OPO": "opo"}  # whose baseline is made of the group


@dataclass(frozen=True)
class Groups:
    """What was sampled, and what is known of the prompts."""

    reward: Float[Tensor, "r b g"]
    length: Int[Tensor, "r b g"]
    greedy: Float[Tensor, " b"]  # the reward of each prompt's greedy completion
    success: Float[Tensor, " b"]  # the expected reward of each prompt
    best: Float[Tensor, " b"]  # see `best_baseline`


@cache
def recipe(algorithm: str) -> Recipe:
    return resolve(PolicyGradientConfig(algorithm=algorithm))


def no_baseline(groups: Groups) -> Float[Tensor, "r b g"]:
    return groups.reward


def running_mean(groups: Groups) -> Float[Tensor, "r b g"]:
    """The groups are those of r steps, one after the other; at the first the mean is the true one."""
    baseline = RunningMean()
    baseline.update(float(groups.success.mean()))
    adv = []
    for reward in groups.reward:
        adv.append(reward - (baseline.value or 0.0))
        baseline.update(float(reward.mean()))
    return torch.stack(adv)


def remax(groups: Groups) -> Float[Tensor, "r b h"]:
    """The last completion gives way to the greedy one, which costs as much to sample and gives no gradient."""
    return groups.reward[:, :, :-1] - groups.greedy[:, None]


def prompts_mean(groups: Groups) -> Float[Tensor, "r b g"]:
    """What a critic that reads the prompt alone would say if it were perfect."""
    return groups.reward - groups.success[:, None]


def least_noise(groups: Groups) -> Float[Tensor, "r b g"]:
    return groups.reward - groups.best[:, None]


def best_baseline(
    reward: Float[Tensor, "b m"], squared_norm: Float[Tensor, "b m"], chance: Float[Tensor, "b m"]
) -> Float[Tensor, " b"]:
    """E[|s|^2 r] / E[|s|^2], s the gradient of log pi: of all numbers that depend on the prompt alone, the one with
    which (r - b) s varies least. Greensmith et al. 2004; what OPO takes the length for."""
    weight = chance * squared_norm
    return (weight * reward).sum(1) / weight.sum(1).clamp(min=1e-12)  # no completion has a gradient: any will do


def grouped(algorithm: str) -> Callable[[Groups], Tensor]:
    """An algorithm's advantage in each group."""

    def advantage(groups: Groups) -> Float[Tensor, "r b g"]:
        flat = Outcomes(groups.reward.flatten(0, 1), groups.length.flatten(0, 1))
        return per_completion(recipe(algorithm), flat).view_as(groups.reward)

    return advantage


ADVANTAGES: dict[str, Callable[[Groups], Tensor]] = {
    "no baseline": no_baseline,
    "running mean": running_mean,
    "ReMax": remax,
    **{name: grouped(algorithm) for name, algorithm in GROUPED.items()},
    "prompt's mean": prompts_mean,
    "best constant": least_noise,
}
