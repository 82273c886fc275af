"""Which of the sampled completions are learned: functions of the rewards (b, g) of g completions of each of b prompts.

    top_per_prompt       the `keep` of the highest reward of each prompt
    top_k_overall        the `keep` of the highest reward of all: many of easy prompts, none of hard ones
    random_per_prompt    the control of the first: as many of each prompt, by lot
    random_k_overall     the control of the second: as many in all, by lot

RLHF Book, chapter 9. A control has the size of what it is compared with, and the first the same prompts too, so that
what is better about the original is the choice alone. All return a mask (b, g).

Equal rewards are ordered by lot, never by the order in which completions were sampled. Two prompts of three completions
each, of which the last of all was cut off and may not be selected:

    >>> reward = np.array([[0.0, 1.0, 0.5], [2.0, 3.0, 4.0]])
    >>> allowed = np.array([[True, True, True], [True, True, False]])
    >>> top_per_prompt(reward, allowed, keep=1, min_reward=None, lot=np.random.default_rng(0)).astype(int)
    array([[0, 1, 0],
           [0, 1, 0]])
    >>> top_k_overall(reward, allowed, keep=2, min_reward=None, lot=np.random.default_rng(0)).astype(int)
    array([[0, 0, 0],
           [1, 1, 0]])
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray as Array
from numpy.random import Generator

type Mask = Bool[Array, "b g"]
type Select = Callable[..., Mask]


def top_per_prompt(
    reward: Float[Array, "b g"], allowed: Mask, *, keep: int, min_reward: float | None, lot: Generator
) -> Mask:
    """The best of each prompt: argmax_j r[i, j] with `keep` 1. Llama 2 (Touvron et al., 2023), section 3.2.3.

    With `min_reward` 1 and a verifier it keeps right completions alone: RFT (Yuan et al., 2023, arXiv 2308.01825).

    Args:
        allowed: True where a completion may be selected at all.
        keep: how many of a prompt; fewer where fewer are allowed.
        min_reward: the smallest reward to be selected; None: any.
        lot: orders equal rewards.
    """
    return _first(_ranked(reward, lot), _good(reward, allowed, min_reward), keep)


def top_k_overall(
    reward: Float[Array, "b g"], allowed: Mask, *, keep: int, min_reward: float | None, lot: Generator
) -> Mask:
    """The best of all prompts together, wherever they come from. Arguments as above, but `keep` in all."""
    good = _good(reward, allowed, min_reward)
    return _first(_ranked(reward.reshape(1, -1), lot), good.reshape(1, -1), keep).reshape(reward.shape)


def random_per_prompt(
    reward: Float[Array, "b g"], allowed: Mask, *, keep: int, min_reward: float | None, lot: Generator
) -> Mask:
    """By lot, as many of each prompt as `top_per_prompt` selects of it."""
    size = np.minimum(_good(reward, allowed, min_reward).sum(1), keep)
    return _first(lot.random(reward.shape), allowed, size)


def random_k_overall(
    reward: Float[Array, "b g"], allowed: Mask, *, keep: int, min_reward: float | None, lot: Generator
) -> Mask:
    """By lot, as many in all as `top_k_overall` selects."""
    size = min(keep, int(_good(reward, allowed, min_reward).sum()))
    return _first(lot.random((1, reward.size)), allowed.reshape(1, -1), size).reshape(reward.shape)


selections: dict[str, Select] = {
    "top_per_prompt": top_per_prompt,
    "top_k_overall": top_k_overall,
    "random_per_prompt": random_per_prompt,
    "random_k_overall": random_k_overall,
}


def _good(reward: Float[Array, "b g"], allowed: Mask, min_reward: float | None) -> Mask:
    """Where a completion may be selected and has the reward that is asked for."""
    return allowed if min_reward is None else allowed & (reward >= min_reward)


def _ranked(reward: Float[Array, "b g"], lot: Generator) -> Float[Array, "b g"]:
    """The place of each completion in its row, 0 the best; equal rewards in an order by lot."""
    order = np.lexsort((lot.random(reward.shape), -reward), axis=-1)
    return np.argsort(order, axis=-1).astype(float)


def _first(place: Float[Array, "b g"], candidates: Mask, size: "int | Array") -> Mask:
    """The `size` candidates of each row with the smallest places."""
    among = np.where(candidates, place, np.inf)
    rank = np.argsort(np.argsort(among, axis=-1), axis=-1)
    return candidates & (rank < np.reshape(size, (-1, 1)))
