"""Which completions are selected: the best by brute force, controls of the same size, ties by lot."""

import numpy as np
import pytest
from numpy import ndarray as Array

from rejection_sampling.selection import Mask, selections

B, G = 6, 5


def select(name: str, reward: Array, allowed: Array | None = None, *, keep: int, at_least=None, seed: int = 0) -> Mask:
    allowed = np.ones(reward.shape, dtype=bool) if allowed is None else allowed
    lot = np.random.default_rng(seed)
    return selections[name](reward, allowed, keep=keep, min_reward=at_least, lot=lot)


@pytest.fixture
def reward() -> Array:
    return np.random.default_rng(1).normal(size=(B, G))


@pytest.fixture
def allowed() -> Array:
    """Of the first prompt no completion may be selected, of the second one alone."""
    allowed = np.random.default_rng(2).random((B, G)) < 0.7
    allowed[:2] = False
    allowed[1, 3] = True
    return allowed


@pytest.mark.parametrize("keep", [1, 3, G])
def test_the_best_of_each_prompt(reward: Array, allowed: Array, keep: int) -> None:
    chosen = select("top_per_prompt", reward, allowed, keep=keep)
    for i in range(B):
        candidates = [j for j in range(G) if allowed[i, j]]
        best = sorted(candidates, key=lambda j: -reward[i, j])[:keep]
        assert sorted(np.flatnonzero(chosen[i])) == sorted(best)


@pytest.mark.parametrize("keep", [1, 7, B * G])
def test_the_best_of_all(reward: Array, allowed: Array, keep: int) -> None:
    chosen = select("top_k_overall", reward, allowed, keep=keep)
    best = sorted(zip(*np.nonzero(allowed), strict=True), key=lambda place: -reward[place])[:keep]
    assert sorted(zip(*np.nonzero(chosen), strict=True)) == sorted(best)


@pytest.mark.parametrize("at_least", [None, -0.3, 0.5, 99.0])
@pytest.mark.parametrize("keep", [1, 2, 4, 9])
def test_a_control_has_the_size_of_what_it_controls(reward: Array, allowed: Array, keep: int, at_least) -> None:
    """Within prompts also the same prompts, each as often; a smallest reward makes both smaller alike."""
    size = {name: select(name, reward, allowed, keep=keep, at_least=at_least) for name in selections}
    assert (size["random_per_prompt"].sum(1) == size["top_per_prompt"].sum(1)).all()
    assert size["random_k_overall"].sum() == size["top_k_overall"].sum()
    for chosen in size.values():
        assert not (chosen & ~allowed).any()
    if at_least is not None:
        for name in ("top_per_prompt", "top_k_overall"):
            assert (reward[size[name]] >= at_least).all()
            assert size[name].sum() == min(keep * B if "per" in name else keep, size[name].sum())


def test_a_filter_by_the_verifier_keeps_all_that_is_right() -> None:
    reward = np.random.default_rng(3).integers(0, 2, size=(B, G)).astype(float)
    chosen = select("top_per_prompt", reward, keep=G, at_least=1.0)
    assert (chosen == (reward == 1)).all()
    assert (select("top_k_overall", reward, keep=B * G, at_least=1.0) == chosen).all()


@pytest.mark.parametrize("name", selections)
def test_ties_are_drawn(name: str) -> None:
    """Of equal rewards every completion is selected about equally often, whatever its place, and a seed repeats."""
    reward = np.zeros((3, 4))
    keep = 1 if name.endswith("per_prompt") else 3
    drawn = np.array([select(name, reward, keep=keep, seed=seed) for seed in range(2000)])
    assert drawn.mean(0) == pytest.approx(np.full((3, 4), 0.25), abs=0.04)
    assert (select(name, reward, keep=keep, seed=7) == drawn[7]).all()


@pytest.mark.parametrize("name", ["random_per_prompt", "random_k_overall"])
def test_a_control_does_not_look_at_the_reward(name: str, reward: Array) -> None:
    """Other than by how many reach the smallest one."""
    before = select(name, reward, keep=2)
    assert (select(name, -reward, keep=2) == before).all()
    drawn = np.mean([select(name, reward, keep=2, at_least=1.0, seed=seed) for seed in range(500)], axis=0)
    good = reward >= 1.0
    assert drawn[~good].sum() > 0, "a completion below it is drawn too"
