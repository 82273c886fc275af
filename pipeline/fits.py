"""How reward grows with the distance from the start, d = sqrt(KL(policy || start)), in the forms of Gao et al. (2022).

    best-of-n    R(d) = d (a - b d)
    RL           R(d) = d (a - b log d)

R is the reward above that of the start; a is the slope at the start, b how much of it is lost on the way. Gao,
Schulman, Hilton, "Scaling Laws for Reward Model Overoptimization", 2022, arXiv 2210.10760, section 3.1. Both are linear
in (a, b), so the least-squares fit is a closed form. Only numpy is needed.

    >>> d = np.array([0.5, 1.0, 2.0])
    >>> fit(BEST_OF_N, d, d * (3 - 0.5 * d))
    Coefficients(a=3.0, b=0.5)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

type Array = np.ndarray


class Coefficients(NamedTuple):
    """a: reward for each unit of d at the start; b: how fast that is lost."""

    a: float
    b: float


@dataclass(frozen=True)
class Form:
    """R(d) = d (a - b loss(d))."""

    text: str
    loss: Callable[[Array], Array]

    def __call__(self, d: Array, at: Coefficients) -> Array:
        return d * (at.a - at.b * self.loss(d))


BEST_OF_N = Form("d (a - b d)", lambda d: d)
RL = Form("d (a - b log d)", lambda d: np.log(np.maximum(d, 1e-12)))  # at d = 0 the form is 0, whatever the logarithm


def fit(form: Form, d: Array, gain: Array) -> Coefficients | None:
    """The a and b of least squared error; None of fewer than three points, or where all have one distance.

    Args:
        d: sqrt(KL), sqrt(nats).
        gain: reward above that of the start.
    """
    if len(d) < 3 or np.ptp(d) < 1e-6:
        return None
    basis = np.stack([d, -d * form.loss(d)], axis=1)
    (a, b), *_ = np.linalg.lstsq(basis, gain, rcond=None)
    return Coefficients(round(float(a), 12), round(float(b), 12))
