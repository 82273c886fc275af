"""Functions of log-probabilities and log-ratios that losses are made of."""

import torch

from direct_alignment.loss import Pairs


def log_odds(m: Pairs) -> Pairs:
    """log(p / (1 - p)) for p = exp(m), m < 0.

    log(1 - exp(m)) loses its digits near 0 in one form and near -inf in the other, so each is used where it is exact
    (Maechler, "Accurately computing log(1 - exp(-|a|))", 2012). At -1e-6, m stops: the odds would be infinite at 0.
    """
    m = m.clamp(max=-1e-6)
    small = m > -0.693  # the half of the line where exp(m) > 1/2
    near = torch.log(-torch.expm1(torch.where(small, m, -1.0)))  # `where` before the function, too: the branch not
    far = torch.log1p(-torch.exp(torch.where(small, -1.0, m)))  # taken must have a finite gradient for 0 times it
    return m - torch.where(small, near, far)


def power(x: Pairs, alpha: float) -> Pairs:
    """(1 - exp(-alpha x)) / alpha: x for alpha 0. The exponent stops at 20, far before it would overflow.

    >>> power(torch.tensor([0.6931]), 1.0)  # 1 - 1/2
    tensor([0.5000])
    """
    return x if alpha == 0 else -torch.expm1((-alpha * x).clamp(max=20.0)) / alpha
