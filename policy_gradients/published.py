"""The published settings of an algorithm, without importing PyTorch.

An algorithm declares its settings in its own file (see policy_gradients/algorithm.py). What that file says in names and
plain values is read from its text. Where it says it otherwise, the file is imported: that gives the same, later.
"""

import ast
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from policy_gradients.algorithm_settings import declaring_files
from policy_gradients.algorithms import files
from rlhf.config.declarations import (
    NotPlainError,
    assigned,
    functions_of,
    keyword_defaults,
    keywords,
    parse_files,
    plain,
)

# groups: at least 2 completions of a prompt. baseline: a running mean of rewards. greedy: a greedy completion of each
# prompt. lengths: the tokens of each completion. components: the parts of each reward. binary: rewards that are 0 or 1.
# token_rewards: rewards of tokens, not of completions. critic: a value for each token. returns: a critic that learns
# the rewards as they came. whitened: advantages that are normalized over the tokens of the batch. What each hands to
# the advantage: credit.py.
Need = Literal[
    "groups",
    "baseline",
    "greedy",
    "lengths",
    "components",
    "binary",
    "token_rewards",
    "critic",
    "returns",
    "whitened",
]

# As a loss, k1 has an expected gradient of zero; as a reward, k3 has one that vanishes near the reference.
ESTIMATOR = {"reward": "k1", "loss": "k3"}


@dataclass(frozen=True)
class Penalty:
    """The KL penalty that the paper has, unless the config has another."""

    kl_coef: float = 0.0  # 0: no penalty, and no reference model is loaded
    kl_in: Literal["loss", "reward"] = "loss"
    kl_estimator: Literal["k1", "k2", "k3"] | None = None  # None: that of ESTIMATOR


@dataclass(frozen=True)
class Sampling:
    """What the paper does about groups that teach nothing and about completions that run out of room."""

    resample_rounds: int = 0  # rounds, at most, that replace groups that are all right or all wrong
    truncated: Literal["keep", "mask", "penalize"] = "keep"  # what becomes of completions cut at max_new_tokens
    overlong_buffer: float = 0.2  # last share of max_new_tokens, over which the penalty grows from 0 to 1


@dataclass(frozen=True)
class Extra:
    """What the paper has beside the surrogate: a rule for the tokens of a whole step, and a term of the loss."""

    second_moment: float | None = None  # bound of the mean of (log ratio)^2 over the step's tokens; None: none
    nll_coef: float = 0.0  # weight of the negative log-likelihood of right completions


@dataclass(frozen=True)
class Published:
    """What an algorithm's file says of it, but for its functions."""

    settings: Mapping[str, Any]  # of its advantage and its surrogate
    aggregation: str
    needs: frozenset[Need]
    kl: Penalty
    sampling: Sampling
    extra: Extra
    ratio: str | None  # the name of its function; without one it is on-policy only

    @property
    def values(self) -> dict[str, Any]:
        """The published value of every config key that the algorithm has an opinion on."""
        kl = {key: value for key, value in asdict(self.kl).items() if value is not None}
        return {**self.settings, **kl, **asdict(self.sampling), **asdict(self.extra)}


@cache
def published(name: str) -> Published:
    """What the algorithm of that name has published."""
    file = next(file for file in files() if file.stem == name)
    try:
        return _read(file)
    except NotPlainError:
        from policy_gradients.algorithm import load

        return load(name).published


def _read(file: Path) -> Published:
    (tree,) = parse_files([file])
    functions = functions_of(parse_files([file, *declaring_files()]))
    own_names = {
        alias.asname or alias.name: alias.name
        for statement in tree.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }

    def settings_of(function: ast.expr) -> dict[str, Any]:
        match function:
            case ast.Name(id=name) if own_names.get(name, name) in functions:
                return keyword_defaults(functions[own_names.get(name, name)])
            case ast.Call(func=ast.Name(id="partial"), args=[inner]):
                return {**settings_of(inner), **{key: plain(value) for key, value in keywords(function).items()}}
        raise NotPlainError(ast.unparse(function))

    match assigned(tree, file.stem):
        case ast.Call(func=ast.Name(id="Algorithm"), args=[]) as call:
            given = keywords(call)
        case other:
            raise NotPlainError(ast.unparse(other))
    match given["aggregate"]:
        case ast.Name(id=name):
            aggregation = own_names.get(name, name)
        case other:
            raise NotPlainError(ast.unparse(other))
    match given["ratio"]:
        case ast.Name(id=name):
            ratio = own_names.get(name, name)
        case ast.Constant(value=None):
            ratio = None
        case other:
            raise NotPlainError(ast.unparse(other))
    return Published(
        settings={**settings_of(given["advantage"]), **settings_of(given["surrogate"])},
        aggregation=aggregation,
        needs=plain(given["needs"]) if "needs" in given else frozenset(),
        kl=Penalty(**_arguments(given.get("kl"))),
        sampling=Sampling(**_arguments(given.get("sampling"))),
        extra=Extra(**_arguments(given.get("extra"))),
        ratio=ratio,
    )


def _arguments(call: ast.expr | None) -> dict[str, Any]:
    match call:
        case None:
            return {}
        case ast.Call(args=[]):
            return {key: plain(value) for key, value in keywords(call).items()}
    raise NotPlainError(ast.unparse(call))
