"""No two purposes draw from the same random numbers."""

import itertools

import numpy as np

from rlhf.random_keys import Key, of_candidates, of_evaluation, of_prompt, of_samples, of_training


def state(key: Key) -> tuple[int, ...]:
    """What numpy makes of a key: equal for keys that are the same words up to zeros at the end."""
    return tuple(np.random.SeedSequence(key).generate_state(4).tolist())


def test_numpy_pads_with_zeros() -> None:
    """Why a large number at the start is not enough: 2**33 is the words 0 and 2."""
    assert state((2**33, 0, 0)) == state((0, 2)) == state((0, 2, 0))
    assert state((2**64 - 1, 1, 0)) == state((2**64 - 1, 1))


def test_no_two_purposes_share_a_stream() -> None:
    seeds, numbers = (0, 1, 2, 3, 2**32 - 1), (*range(40), 2**20, 2**32 - 2)
    questions = ("", "What is 2+2?", "a", "b")
    keys = [
        *itertools.starmap(of_training, itertools.product(seeds, numbers)),
        *map(of_evaluation, numbers),
        *map(of_samples, numbers),
        *itertools.starmap(of_candidates, itertools.product(seeds, numbers, questions)),
        *itertools.starmap(of_prompt, itertools.product(seeds, questions)),
    ]
    assert len(set(map(state, keys))) == len(keys) == 5 * 42 + 2 * 42 + 5 * 42 * 4 + 5 * 4


def test_the_numbers_of_training_and_evaluation_stay_what_they_were() -> None:
    """Published results rest on them."""
    assert (of_training(3, 7), of_evaluation(5)) == ((3, 7), (2**64 - 1, 5, 0))
    assert state(of_evaluation(5)) == state((2**64 - 1, 5))
