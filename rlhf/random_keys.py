"""The keys of all random numbers that completions are sampled with, in one place, so that no two purposes share any.

A completion is a function of its key (see `rlhf.sampling`). numpy reads a key as 32-bit words, the low word of each
number first, and pads it with zeros to four: (0, 2), (0, 2, 0) and (2**33,) are one and the same. So the purposes are
told apart by words in fixed places:

    training            seed    number   0  0
    selection           seed    round    1  0        no completions: lots that order equal rewards
    evaluation          ones    ones     i  0        the same in every run, so that policies meet the same draws
    samples to look at  ones    ones     i  1        likewise
    candidates          ones    ones     i  2  seed  hash of the question
    prompts of a user   ones    ones     0  3  seed  hash of the prompt
    choice of tokens    ones    ones     i  4  seed

`ones` is 2**32 - 1, which is neither the seed nor the number of anything.
"""

import hashlib

NOT_TRAINING = 2**64 - 1  # two words of ones
_EVALUATION, _SAMPLES, _CANDIDATES, _PROMPTS, _TOKENS = range(5)

type Key = tuple[int, ...]


def of_training(seed: int, number: int) -> Key:
    """For problem `number` of the training stream, whatever process samples it."""
    return (seed, number)


def of_selection(seed: int, number: int) -> Key:
    """For the lots of round `number` of rejection sampling: which completions of equal reward are selected."""
    return (seed, number, 1)


def of_evaluation(i: int) -> Key:
    """For held-out problem i."""
    return (NOT_TRAINING, i, _EVALUATION)


def of_samples(i: int) -> Key:
    """For the completion of held-out prompt i by which KL and length are measured."""
    return (NOT_TRAINING, i, _SAMPLES)


def of_tokens(seed: int, number: int) -> Key:
    """For a random choice among the tokens of the completions of problem `number` of the training stream."""
    return (NOT_TRAINING, number, _TOKENS, seed)


def of_candidates(seed: int, i: int, question: str) -> Key:
    """For the candidates of problem i. By the question too, so that training and held-out problems, which are both
    counted from 0, have other numbers."""
    return (NOT_TRAINING, i, _CANDIDATES, seed, _hash(question))


def of_prompt(seed: int, prompt: str) -> Key:
    """For the answers to a prompt that somebody gives, wherever it stands in a file or a conversation."""
    return (NOT_TRAINING, 0, _PROMPTS, seed, _hash(prompt))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
