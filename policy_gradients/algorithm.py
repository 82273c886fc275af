"""An algorithm: four choices, what they need, and the values that its paper gives to its settings.

    grpo = Algorithm(
        advantage=group_normalize,
        ratio=token_ratio,
        surrogate=partial(clipped, clip_low=0.2, clip_high=0.2),
        aggregate=sequence_mean,
        ...

The settings of an algorithm are the keyword-only parameters of its advantage and its surrogate. Each is annotated with
its type, its bounds and a sentence, and `partial` gives it the published value:

    ClipLow = Annotated[float, Field(gt=0, lt=1, description="The ratio is clipped at 1 - this."), OFF_POLICY]

    def clipped(logp, ratio, adv, mask, *, clip_low: ClipLow, ...)

That makes `clip_low` a config key, listed by `--help` and refused for an algorithm that does not read it. A new
function with new settings may stand in the algorithm's own file: see policy_gradients/algorithms/gmpo.py.

Written with names and plain values, as above, an algorithm's settings are known without importing PyTorch: see
policy_gradients/published.py.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from torch import Tensor

from policy_gradients.algorithms import names
from policy_gradients.published import Extra, Need, Penalty, Published, Sampling
from rlhf.aggregate import Aggregate, aggregates


@dataclass(frozen=True)
class Algorithm:
    advantage: Callable[..., Tensor]  # reward (b, g) -> adv (b, g); with some needs from more: see credit.py
    ratio: Callable[[Tensor, Tensor, Tensor], Tensor] | None  # logp, logp_old, mask -> (n, t); None: on-policy only
    surrogate: Callable[..., Tensor]  # logp, ratio, adv, mask -> loss (n, t)
    aggregate: Aggregate  # loss (n, t) -> a number
    needs: frozenset[Need] = frozenset()
    kl: Penalty = field(default_factory=Penalty)
    sampling: Sampling = field(default_factory=Sampling)
    extra: Extra = field(default_factory=Extra)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that only algorithms with this advantage or surrogate have, with their published values."""
        return {**keyword_only(self.advantage), **keyword_only(self.surrogate)}

    @property
    def published(self) -> Published:
        """What is known of the algorithm without its functions."""
        aggregation = next(name for name, it in aggregates.items() if it is self.aggregate)
        ratio = getattr(self.ratio, "__name__", None)
        return Published(self.settings, aggregation, self.needs, self.kl, self.sampling, self.extra, ratio)


def keyword_only(function: Callable[..., Tensor]) -> dict[str, Any]:
    """The keyword-only parameters of a function with their values, those that `partial` has given included.

    Raises:
        TypeError: one has no value.
    """
    parameters = inspect.signature(function).parameters.values()
    found = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    missing = [name for name, value in found.items() if value is inspect.Parameter.empty]
    if missing:
        raise TypeError(f"{missing[0]} of {function} has no value: give it with functools.partial")
    return found


def load(name: str) -> Algorithm:
    """The algorithm of that name: the variable `name` of the file policy_gradients/algorithms/NAME.py."""
    return getattr(import_module(f"policy_gradients.algorithms.{name}"), name)


def load_all() -> dict[str, Algorithm]:
    return {name: load(name) for name in names()}
