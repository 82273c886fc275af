"""A reward of pure noise, for claims about rewards that are not exact."""

from hashlib import sha256
from statistics import NormalDist


def noise(prompt: str, completion: str, answer: str) -> float:
    """A standard normal number that the texts decide: the same whenever the run is made again.

    It says nothing of the completion, and no problem comes twice in training, so that there is nothing to learn in it.
    """
    digest = sha256(f"{prompt}\n{completion}".encode()).digest()
    return NormalDist().inv_cdf((int.from_bytes(digest[:8]) + 0.5) / 2**64)
