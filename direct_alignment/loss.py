"""A loss with what it needs, and the completions that it is a function of.

A loss function names the quantities that it takes by its parameters: `s_w` is `s` of the chosen, `s_l` of the rejected.
Its keyword-only parameters are its settings, with the published values as defaults.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

from jaxtyping import Bool, Float
from torch import Tensor

Pairs = Float[Tensor, " n"]  # one number for each pair

Each = Float[Tensor, " c"]  # one number for each completion


Need = Literal["reference", "pairs", "mismatched", "shared", "sharper", "whole step"]

Score = Literal["s", "s_mean", "m", "logp"]


@dataclass(frozen=True)
class Completions:
    """What is known of c completions. Of pairs, the chosen stands before its rejected; then c = 2n."""

    logp: Float[Tensor, " c"]  # log pi(completion | prompt): the sum over tokens that count, nats
    logp_ref: Float[Tensor, " c"] | None  # the same of the reference
    length: Float[Tensor, " c"]  # tokens that count
    desirable: Bool[Tensor, " c"]
    s_mismatched: Float[Tensor, " k"] | None = None  # log-ratios of completions under prompts of others
    logp_shared: Float[Tensor, " c"] | None = None  # over the first tokens, as many as the shorter of the pair has
    logp_ref_shared: Float[Tensor, " c"] | None = None
    logp_sharper: Float[Tensor, " c"] | None = None  # of the policy at temperature 1/2, without gradient

    @property
    def s(self) -> Each:
        assert self.logp_ref is not None
        return self.logp - self.logp_ref

    @property
    def s_shared(self) -> Each:
        assert self.logp_shared is not None
        assert self.logp_ref_shared is not None
        return self.logp_shared - self.logp_ref_shared

    @property
    def s_mean(self) -> Each:
        return self.s / self.length

    @property
    def m(self) -> Each:
        return self.logp / self.length

    @property
    def w(self) -> Each:
        """exp of the mean over tokens of log(pi / sum_v pi_v^2), without gradient.

        At temperature 1/2 the log-probability of a token is 2 log pi - log sum_v pi_v^2.
        """
        assert self.logp_sharper is not None
        return ((self.logp_sharper - self.logp) / self.length).exp().detach()

    @property
    def margin_ref(self) -> Pairs:
        assert self.logp_ref is not None
        return self.logp_ref[0::2] - self.logp_ref[1::2]

    def detached(self) -> "Completions":
        """Without gradient, on the CPU: to be kept and sent."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Completions(**{name: v if v is None else v.detach().cpu() for name, v in values.items()})

    def get(self, name: str) -> Any:
        """A quantity by the name that a loss has for it: `s_w` is `s` of the chosen."""
        if name.endswith(("_w", "_l")):
            return getattr(self, name[:-2])[name.endswith("_l") :: 2]
        return getattr(self, name)


@dataclass(frozen=True)
class Loss:
    function: Callable[..., Tensor]
    score: Score  # what it ranks completions by: its implicit reward, but for beta
    # reference: log-probabilities of the reference. pairs: chosen and rejected of a prompt; without, labels do.
    # mismatched: log-ratios under prompts of others. shared: those over the first tokens, as many as both of a pair
    # have. sharper: the policy's at temperature 1/2. whole step: statistics over all completions of an optimizer step.
    needs: frozenset[Need]
    variants: Mapping[str, "Loss"] = field(default_factory=dict)  # what it is instead where that config key is true
    # Of a loss without pairs: the implicit reward above which it takes a completion for desirable; None: 0.
    parting: Callable[..., Tensor] | None = None

    @cached_property
    def takes(self) -> list[str]:
        parameters = inspect.signature(self.function).parameters.values()
        return [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]

    @cached_property
    def settings(self) -> dict[str, float]:
        """Its hyper-parameters with their published values."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def __call__(self, completions: Completions, **settings: float) -> Float[Tensor, " k"]:
        return self.function(*map(completions.get, self.takes), **settings)

    def threshold(self, completions: Completions, settings: Mapping[str, float]) -> float:
        """The implicit reward above which a completion is taken for desirable, given all completions of a step."""
        if self.parting is None:
            return 0.0
        parameters = inspect.signature(self.parting).parameters.values()
        given = [completions.get(p.name) for p in parameters if p.kind is not p.KEYWORD_ONLY]
        return float(self.parting(*given, **{p.name: settings[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY}))


def make_loss(
    function: Callable[..., Tensor],
    score: Score,
    *needs: Need,
    parting: Callable[..., Tensor] | None = None,
    **variants: Loss,
) -> Loss:
    return Loss(function, score, frozenset(needs), variants, parting)
