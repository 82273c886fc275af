"""A config with no setting left open; and what is refused: settings of another algorithm, settings that contradict each
other, and settings that would act on nothing. Light: PyTorch is not imported."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from policy_gradients.algorithm_settings import off_policy_settings
from policy_gradients.algorithms import names
from policy_gradients.config import SETTINGS, CriticConfig, PolicyGradientConfig
from policy_gradients.published import ESTIMATOR, Published, published
from rlhf.errors import IdleError, UserError

IMPORTANCE = {"importance_cap", "importance_floor", "importance_level"}
KL = {"kl_in", "kl_estimator", "kl_unbiased", "kl_target", "sync_reference_every", "offload_reference"}
MORE_UPDATES = "--steps_per_batch 4 or --epochs_per_batch 2, for example."
MORE_STEPS = "--steps_per_batch 4, --epochs_per_batch 2 or --staleness 1, for example."
NO_RATIO = "Leave it out, or take an algorithm without a ratio, such as rloo."


def fill(config: PolicyGradientConfig) -> PolicyGradientConfig:
    """The config with the algorithm's published value in place of every null.

    Raises:
        UserError: the config sets something that the algorithm does not have or cannot do, or that acts on nothing.
    """
    algorithm = published(config.algorithm)
    _refuse_settings_of_others(config, algorithm)
    usual = {
        **algorithm.values,
        "kl_estimator": _estimator(algorithm, config.kl_in or algorithm.kl.kl_in),
        "critic": CriticConfig() if "critic" in algorithm.needs else None,
        "aggregation": algorithm.aggregation,
    }
    filled = {key: value for key, value in usual.items() if getattr(config, key) is None}
    resolved = config.model_copy(update=filled)
    for message, hint in _contradictions(config, resolved, algorithm):
        raise UserError(message, hint)
    for idle in _idle(config, resolved, algorithm, usual):
        raise idle
    return resolved


def _estimator(algorithm: Published, kl_in: str) -> str:
    """The estimator of the paper where the penalty stands where the paper has it."""
    own = algorithm.kl.kl_estimator if kl_in == algorithm.kl.kl_in else None
    return own or ESTIMATOR[kl_in]


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
) -> Iterator[tuple[str, str]]:
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
    if algorithm.ratio is None and (updates > 1 or config.staleness) and config.importance == "none":
        when = f"{config.staleness} steps old" if config.staleness else f"for {updates} optimizer steps"
        yield (
            f"{name} has no ratio, so it cannot use a batch of rollouts {when}: the samples would be off-policy",
            "Set epochs_per_batch and steps_per_batch to 1 and staleness to 0, weigh the tokens with --importance "
            "truncate, or use an algorithm with a ratio, such as grpo.",
        )
    if algorithm.ratio == "completion_ratio" and config.importance != "none":
        yield (
            f"importance: {name} weighs completions by a function of pi / pi_old: they would be weighed twice",
            "Leave it out. With --staleness 1 pi_old is the sampler's own.",
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
        yield (
            "tasks: give a mixture (tasks) or one task (task and task_config), not both",
            "The parameters of a task in a mixture are its own: --tasks '{NAME: {config: {...}}}'.",
        )


def _contradictions_of_updates(config: PolicyGradientConfig) -> Iterator[tuple[str, str]]:
    if config.importance_floor > config.importance_cap:
        yield (
            f"importance_floor: {config.importance_floor:g} is above importance_cap {config.importance_cap:g}",
            "IcePop has 0.5 and 5.",
        )
    if config.covariance_low >= config.covariance_high:
        yield "covariance_low: no covariance is above it and below covariance_high", "Clip-Cov has 1 and 5."


def _contradictions_of_kl(config: PolicyGradientConfig) -> Iterator[tuple[str, str]]:
    if config.kl_in == "loss" and config.kl_estimator == "k1" and not config.kl_unbiased:
        yield "kl_estimator: k1 has zero expected gradient as a loss", "Use k3 or k2, or --kl_in reward."
    if config.kl_unbiased and config.kl_in == "reward":
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


def _idle(
    given: PolicyGradientConfig, config: PolicyGradientConfig, algorithm: Published, usual: Mapping[str, Any]
) -> Iterator[IdleError]:
    """What is set and would change nothing, and what it acts with. A value that would hold without being set is not."""
    updates = config.epochs_per_batch * config.steps_per_batch
    moves = updates > 1 or config.staleness > 0
    steps = MORE_STEPS if algorithm.ratio else "--staleness 1 --importance truncate, for example."
    still = "pi / pi_old is 1, as each batch is trained on at once and in one optimizer step"
    cut = config.top_p < 1 or config.top_k > 0
    # In bf16 the own sampler's log-probabilities are a few hundredths of a nat from the trainer's; `auto` may be bf16.
    others_samples = moves or cut or config.sampler != "own" or config.precision != "fp32"
    stale_ratio = config.staleness > 0 and algorithm.ratio is not None
    rules: list[tuple[Any, Collection[str], str, str]] = [  # whether they act, which, why not, and the cure
        (moves, {*off_policy_settings(SETTINGS), "second_moment"}, still, steps),
        (moves or config.covariance != "kl", {"covariance"}, f"what kl adds has no gradient where {still}", steps),
        (others_samples, {"off_policy_mask"}, "no completion is of another policy", steps),
        (updates > 1, {"critic.value_clip"}, "in one optimizer step on a batch no value moves", MORE_UPDATES),
        (
            not stale_ratio,
            {"importance"},
            "pi_old of a stale batch is the sampler's: the ratio is the weight",
            NO_RATIO,
        ),
        (config.importance != "none", IMPORTANCE, "there are no weights without importance", "--importance mask, say."),
        (config.covariance != "none", {"covariance_share"}, "no covariance is looked at", "--covariance clip, or kl."),
        (config.covariance == "clip", {"covariance_low", "covariance_high"}, "of clip alone", "--covariance clip"),
        (config.covariance == "kl", {"covariance_kl_coef"}, "of kl alone", "--covariance kl"),
        (config.truncated == "penalize", {"overlong_buffer"}, "cut completions pay nothing", "--truncated penalize"),
        (
            config.kl_coef,
            KL,
            "there is no KL and no reference without a kl_coef above 0",
            "For example --kl_coef 0.02.",
        ),
        (config.sync_reference_every, {"sync_reference_mix"}, "the reference stays", "--sync_reference_every 10, say."),
        (config.reward_models, {"reward_weights.model"}, "there is no reward_model", "--reward_model RUN"),
    ]
    for acts, keys, why, cure in rules:
        for key in sorted(keys):
            if not acts and not given.is_default(key) and (key not in usual or getattr(given, key) != usual[key]):
                yield IdleError(key, because=why, cure=cure)


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
