"""The published settings of an algorithm, and a config with no setting left open, without importing PyTorch.

An algorithm declares its settings in its own file (see policy_gradients/algorithm.py). What that file says in names and
plain values is read from its text. Where it says it otherwise, the file is imported: that gives the same, later.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from policy_gradients.algorithm_settings import declaring_files
from policy_gradients.algorithms import files, names
from policy_gradients.config import SETTINGS, CriticConfig, PolicyGradientConfig
from rlhf.config.declarations import (
    NotPlainError,
    assigned,
    functions_of,
    keyword_defaults,
    keywords,
    parse_files,
    plain,
)
from rlhf.errors import UserError

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
    has_ratio: bool  # without one it is on-policy only

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
    return Published(
        settings={**settings_of(given["advantage"]), **settings_of(given["surrogate"])},
        aggregation=aggregation,
        needs=plain(given["needs"]) if "needs" in given else frozenset(),
        kl=Penalty(**_arguments(given.get("kl"))),
        sampling=Sampling(**_arguments(given.get("sampling"))),
        extra=Extra(**_arguments(given.get("extra"))),
        has_ratio=not (isinstance(given["ratio"], ast.Constant) and given["ratio"].value is None),
    )


def _arguments(call: ast.expr | None) -> dict[str, Any]:
    match call:
        case None:
            return {}
        case ast.Call(args=[]):
            return {key: plain(value) for key, value in keywords(call).items()}
    raise NotPlainError(ast.unparse(call))


# ---------------------------------------------------------------------------------------------- filling a config in


def fill(config: PolicyGradientConfig) -> PolicyGradientConfig:
    """The config with the algorithm's published value in place of every null.

    Raises:
        UserError: the config sets something that the algorithm does not have or cannot do.
    """
    algorithm = published(config.algorithm)
    _refuse_settings_of_others(config, algorithm)
    filled = {key: value for key, value in algorithm.values.items() if getattr(config, key) is None}
    kl_in = config.kl_in or algorithm.kl.kl_in
    if config.kl_estimator is None and (kl_in != algorithm.kl.kl_in or algorithm.kl.kl_estimator is None):
        filled["kl_estimator"] = ESTIMATOR[kl_in]
    if config.critic is None and "critic" in algorithm.needs:
        filled["critic"] = CriticConfig()
    if config.aggregation is None:
        filled["aggregation"] = algorithm.aggregation
    resolved = config.model_copy(update=filled)
    for message, hint in _contradictions(config, resolved, algorithm):
        raise UserError(message, hint)
    return resolved


def _refuse_settings_of_others(config: PolicyGradientConfig, algorithm: Published) -> None:
    for key in SETTINGS:
        if getattr(config, key) is not None and key not in algorithm.settings:
            readers = [name for name in names() if key in published(name).settings]
            raise UserError(f"{key}: {config.algorithm} does not have it", f"It belongs to {', '.join(readers)}.")
    if config.critic is not None and "critic" not in algorithm.needs:
        readers = [name for name in names() if "critic" in published(name).needs]
        raise UserError(f"critic: {config.algorithm} has none", f"It belongs to {', '.join(readers)}.")


def _contradictions(
    given: PolicyGradientConfig, config: PolicyGradientConfig, algorithm: Published
) -> Iterator[tuple[str, str | None]]:
    """What is wrong with a resolved config, and what to do about it."""
    name = config.algorithm
    if "groups" in algorithm.needs and config.group_size < 2:
        yield (
            f"group_size: {name} compares the completions of a prompt, so 2 at least, not {config.group_size}",
            "--group_size 8 is usual; reinforce and ppo work with 1.",
        )
    if (config.pass_k or 0) > config.group_size:
        yield (
            f"pass_k: a prompt has {config.group_size} completions, of which nobody can choose {config.pass_k}",
            f"--group_size {2 * config.pass_k} and --pass_k {config.pass_k}, for example.",
        )
    updates = config.epochs_per_batch * config.steps_per_batch
    if not algorithm.has_ratio and (updates > 1 or config.staleness) and config.importance == "none":
        when = f"{config.staleness} steps old" if config.staleness else f"for {updates} optimizer steps"
        yield (
            f"{name} has no ratio, so it cannot use a batch of rollouts {when}: the samples would be off-policy",
            "Set epochs_per_batch and steps_per_batch to 1 and staleness to 0, weigh the tokens with --importance "
            "truncate, or use an algorithm with a ratio, such as grpo.",
        )
    yield from _contradictions_of_kl(config)
    yield from _contradictions_of_updates(config)
    if "binary" in algorithm.needs and (impure := _other_than_success(config)):
        yield (
            f"{impure[0]}: {name} needs rewards that are 1 or 0, so exact success and nothing else",
            "The other components are measured all the same, whatever their weight.",
        )
    if "components" in algorithm.needs and (lost := _penalties(config)):
        yield (
            f"{lost[0]}: {name} normalizes the components of the reward apart, and this penalty is none of them",
            "Write it as a function (reward_functions), or put the KL in the loss.",
        )
    if config.tasks and (given.task != type(given).model_fields["task"].default or given.task_config):
        yield "tasks: give a mixture (tasks) or one task (task and task_config), not both", None


def _contradictions_of_updates(config: PolicyGradientConfig) -> Iterator[tuple[str, str | None]]:
    if config.importance_floor > config.importance_cap:
        yield (
            f"importance_floor: {config.importance_floor:g} is above importance_cap {config.importance_cap:g}",
            "IcePop has 0.5 and 5.",
        )
    if config.importance == "none" and (config.importance_floor or config.importance_level != "token"):
        yield "importance_floor, importance_level: there are no weights without importance", "--importance mask, say."
    if config.covariance_low >= config.covariance_high:
        yield "covariance_low: no covariance is above it and below covariance_high", "Clip-Cov has 1 and 5."


def _contradictions_of_kl(config: PolicyGradientConfig) -> Iterator[tuple[str, str | None]]:
    if config.kl_in == "loss" and config.kl_estimator == "k1" and not config.kl_unbiased:
        yield "kl_estimator: k1 has zero expected gradient as a loss", "Use k3 or k2, or --kl_in reward."
    if config.kl_unbiased and (config.kl_in == "reward" or not config.kl_coef):
        yield "kl_unbiased: there is no KL in the loss", "For example --kl_coef 0.02 --kl_in loss."
    if config.kl_unbiased and config.kl_estimator == "k2":
        yield (
            "kl_unbiased: pi / pi_old times k2 has the gradient of another quantity than the KL",
            "Use k3 or k1, whose expectation is the KL; k2 alone has its gradient on-policy.",
        )
    if config.kl_in == "reward" and config.kl_estimator != "k1":
        yield (
            f"kl_estimator: {config.kl_estimator} in the reward is no penalty near the reference",
            "Use k1 (--kl_estimator k1), whose gradient is that of the KL, or --kl_in loss.",
        )
    if config.kl_target is not None and not config.kl_coef:
        yield "kl_target: needs a kl_coef above 0 to start from", "For example --kl_coef 0.02."
    if config.sync_reference_every and not config.kl_coef:
        yield "sync_reference_every: there is no reference without a kl_coef above 0", None


def _penalties(config: PolicyGradientConfig) -> list[str]:
    """The settings that take something off a reward beside its components."""
    penalties = {
        "truncated: penalize": config.truncated == "penalize",
        "length_penalty": config.length_penalty > 0,
        "kl_in: reward": bool(config.kl_coef) and config.kl_in == "reward",
    }
    return [name for name, is_set in penalties.items() if is_set]


def _other_than_success(config: PolicyGradientConfig) -> list[str]:
    """The settings that make a reward something else than 1 for a right answer and 0 for a wrong one."""
    weights = config.reward_weights
    other = {
        "reward_weights.format": weights.format != 0,
        "reward_weights.partial": weights.partial != 0,
        "reward_weights.exact": weights.exact not in (None, 1),
        "reward_model": bool(config.reward_models),
        "reward_functions": bool(config.reward_functions),
    }
    return [name for name, is_set in other.items() if is_set] + _penalties(config)
