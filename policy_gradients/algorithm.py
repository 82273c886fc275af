"""What makes one policy-gradient algorithm another: four choices, what they need, and their published settings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rlhf.aggregate import Aggregate


@dataclass(frozen=True)
class Algorithm:
    advantage: Callable[..., Tensor]  # reward (b, g) -> adv (b, g); with a critic, per token: see `gae`
    ratio: Callable[[Tensor, Tensor, Tensor], Tensor] | None  # logp, logp_old, mask -> (n, t); None: on-policy only
    surrogate: Callable[..., Tensor]  # logp, ratio, adv, and the settings it names -> loss (n, t)
    aggregate: Aggregate  # loss (n, t) -> a number

    # "groups": g >= 2; "baseline": a running mean of rewards; "critic": values of tokens; "binary": rewards of 0 or 1
    needs: frozenset[str] = frozenset()
    settings: Mapping[str, Any] = field(
        default_factory=dict
    )  # config keys it reads, with the values its docstring says
