"""Which settings an algorithm gets, and which are refused."""

import importlib
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from policy_gradients.algorithm import load_all
from policy_gradients.algorithms import names
from policy_gradients.config import SETTINGS, CriticConfig, PolicyGradientConfig, RewardWeights
from policy_gradients.defaults import resolve
from rlhf.config.command import read_command
from rlhf.config.schema import Config
from rlhf.errors import UserError

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(p for f in ("policy_gradients", "instruction_tuning") for p in ROOT.glob(f"{f}/configs/*.yaml"))


def resolved(**settings) -> PolicyGradientConfig:
    return resolve(PolicyGradientConfig(**settings)).config


def test_open_settings_get_the_published_values() -> None:
    """The values themselves are compared with the table of docs/policy_gradients.md in test_algorithms.py."""
    for name, algorithm in load_all().items():
        config = resolved(algorithm=name)
        assert {key: getattr(config, key) for key in algorithm.published.values} == algorithm.published.values
        assert not any(getattr(config, key) is not None for key in SETTINGS if key not in algorithm.settings)
        assert (config.critic is not None) == ("critic" in algorithm.needs)
        assert config.kl_estimator == algorithm.kl.kl_estimator or ("k1" if algorithm.kl.kl_in == "reward" else "k3")


def test_a_recipe_computes_with_the_settings_of_the_config() -> None:
    """clip_high 0.5: a ratio of 2 counts as 1.5. kl_coef 0: no KL, wherever it would be."""
    one = torch.ones(1, 1)
    recipe = resolve(PolicyGradientConfig(algorithm="grpo", clip_high=0.5, kl_coef=0.0, epochs_per_batch=2))
    assert recipe.surrogate(one, 2 * one, one, one.bool()).item() == -1.5
    assert recipe.settings == {"clip_low": 0.2, "clip_high": 0.5, "dual_clip": None}
    assert not recipe.kl_in_loss
    assert not recipe.kl_in_reward
    assert resolve(PolicyGradientConfig(algorithm="ppo")).kl_in_reward
    assert resolve(PolicyGradientConfig(algorithm="reinforce", baseline="none")).advantage(one, 5.0).item() == 1


@pytest.mark.parametrize("kl_in", ["loss", "reward"])
@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_where_the_kl_enters(kl_in: str, kl_coef: float) -> None:
    """Nowhere with a coefficient of 0. Where the paper has the penalty, one may say so all the same."""
    name = "grpo" if kl_coef or kl_in == "loss" else "rloo"
    recipe = resolve(PolicyGradientConfig(algorithm=name, kl_coef=kl_coef, kl_in=kl_in))
    assert recipe.kl_in_loss == (kl_coef > 0 and kl_in == "loss")
    assert recipe.kl_in_reward == (kl_coef > 0 and kl_in == "reward")


def test_how_often_the_policy_is_updated() -> None:
    """3 passes of 2 steps are 6 updates a batch; in 4 of 10 batches the critic learns alone."""
    critic = CriticConfig(warmup_batches=4)
    config = PolicyGradientConfig(
        algorithm="ppo", critic=critic, max_steps=10, epochs_per_batch=3, steps_per_batch=2, prompts_per_step=4
    )
    recipe = resolve(config)
    assert recipe.critic == critic
    assert (recipe.updates, recipe.critic_warmup_steps, recipe.policy_updates) == (6, 4, 36)
    without = resolve(PolicyGradientConfig(algorithm="grpo", max_steps=10))
    assert without.critic is None
    assert (without.critic_warmup_steps, without.policy_updates) == (0, 10)


def test_what_the_user_says_stays() -> None:
    said = {"clip_high": 0.28, "kl_coef": 0.1, "kl_estimator": "k2", "aggregation": "token_mean"}
    config = resolved(algorithm="grpo", epochs_per_batch=2, **said)
    assert (config.clip_low, config.clip_high, config.kl_coef) == (0.2, 0.28, 0.1)
    assert (config.kl_estimator, config.aggregation) == ("k2", "token_mean")
    assert resolved(algorithm="reinforce", baseline="none").baseline == "none"


def test_every_aggregation_is_found_by_name() -> None:
    for name, algorithm in load_all().items():
        assert resolved(algorithm=name).aggregation == algorithm.aggregate.__name__


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"algorithm": "grpo", "group_size": 1}, "group_size"),
        ({"algorithm": "reinforce", "epochs_per_batch": 2}, "has no ratio"),
        ({"algorithm": "reinforce", "steps_per_batch": 2}, "has no ratio"),
        ({"algorithm": "reinforce", "clip_low": 0.2}, "clip_low"),
        ({"algorithm": "reinforce", "clip_high": 0.2}, "clip_high"),
        ({"algorithm": "grpo", "baseline": "running_mean"}, "baseline"),
        ({"algorithm": "rloo", "staleness": 1}, "1 steps old"),
        ({"algorithm": "rloo", "dual_clip": 3.0}, "dual_clip"),
        ({"algorithm": "passk", "group_size": 2}, "pass_k"),
        ({"algorithm": "passk", "reward_weights": {"format": 0.1}}, "reward_weights.format"),
        ({"algorithm": "opo", "steps_per_batch": 2}, "has no ratio"),
        ({"algorithm": "opo", "clip_high": 0.2}, "clip_high"),
        ({"algorithm": "opo", "group_size": 1}, "group_size"),
        ({"algorithm": "cispo", "clip_low": 0.2}, "clip_low"),
        ({"algorithm": "grpo", "tau_pos": 1.0}, "tau_pos"),
        ({"algorithm": "grpo", "log_clip": 0.4}, "log_clip"),
        ({"algorithm": "grpo", "gae_lambda": 1.0}, "gae_lambda"),
        ({"algorithm": "grpo", "critic": {"lr": 1e-3}}, "critic"),
        ({"algorithm": "maxrl", "reward_weights": {"format": 0.1}}, "reward_weights.format"),
        ({"algorithm": "maxrl", "reward_weights": {"exact": 2.0}}, "reward_weights.exact"),
        ({"algorithm": "maxrl", "reward_functions": {"a.py:f": 1.0}}, "reward_functions"),
        ({"algorithm": "maxrl", "truncated": "penalize"}, "truncated"),
        ({"algorithm": "maxrl", "kl_in": "reward", "kl_coef": 0.1}, "kl_in"),
        ({"algorithm": "topr", "length_penalty": 0.2}, "length_penalty"),
        ({"algorithm": "gdpo", "length_penalty": 0.2}, "length_penalty"),
        ({"kl_in": "loss", "kl_estimator": "k1"}, "zero expected gradient"),
        ({"algorithm": "grpo", "kl_estimator": "k1", "kl_coef": 0.1}, "zero expected gradient"),
        ({"algorithm": "rloo", "kl_estimator": "k3", "kl_coef": 0.1}, "no penalty near the reference"),
        ({"kl_unbiased": True, "kl_coef": 0.1, "kl_in": "reward"}, "no KL in the loss"),
        ({"kl_unbiased": True, "kl_coef": 0.1, "kl_estimator": "k2"}, "another quantity"),
        ({"importance": "mask", "importance_floor": 3.0}, "is above importance_cap 2"),
        ({"algorithm": "vespo", "importance": "truncate"}, "weighed twice"),
        ({"algorithm": "topr", "importance": "mask", "epochs_per_batch": 2}, "weighed twice"),
        ({"covariance_low": 5.0}, "no covariance"),
        ({"algorithm": "topr", "reward_weights": {"format": 0.1}}, "reward_weights.format"),
        ({"algorithm": "grpo", "max_shift": 0.1}, "max_shift"),
        ({"task": "gsm", "tasks": {"spell_backward": {}}}, "not both"),
    ],
)
def test_contradictions_are_refused(settings: dict, said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        resolved(**settings)
    assert refused.value.hint


SEVERAL = {"epochs_per_batch": 2}
IDLE = [  # a setting, and what else it needs to act on anything
    *(
        ({"algorithm": name, key: value}, SEVERAL)
        for name, key, value in [
            *(("grpo", "clip_low", 0.1), ("grpo", "clip_high", 0.3), ("grpo", "dual_clip", 3.0)),
            *(
                ("sapo", "tau_pos", 2.0),
                ("sapo", "tau_neg", 2.0),
                ("dppo", "max_shift", 0.1),
                ("gmpo", "log_clip", 0.1),
            ),
            *(("vespo", "k_pos", 1.0), ("vespo", "k_neg", 1.0), ("vespo", "lambda_pos", 1.0)),
            *(("vespo", "lambda_neg", 1.0), ("m2po", "second_moment", 0.1), ("grpo", "second_moment", 0.04)),
        ]
    ),
    ({"covariance": "kl"}, {"steps_per_batch": 2}),
    ({"covariance": "kl"}, {"staleness": 1}),
    ({"algorithm": "rloo", "second_moment": 0.04}, {"staleness": 1, "importance": "truncate"}),
    *(
        ({"off_policy_mask": 0.5, "precision": "fp32"}, needs)
        for needs in (
            {"staleness": 1},
            {"top_p": 0.9},
            {"top_k": 9},
            {"sampler": "vllm", "vllm_url": "http://localhost:8000"},
            {"precision": "bf16"},  # in which the own sampler's log-probabilities are not the trainer's
            {"precision": "auto"},
        )
    ),
    ({"algorithm": "ppo", "critic": CriticConfig(value_clip=0.1)}, {"steps_per_batch": 2}),
    ({"importance_cap": 3.0}, {"importance": "truncate"}),
    ({"importance_floor": 0.5}, {"importance": "mask"}),
    ({"importance_level": "sequence"}, {"importance": "mask"}),
    ({"covariance_share": 0.1}, {"covariance": "clip"}),
    ({"covariance_low": 0.5}, {"covariance": "clip"}),
    ({"covariance_high": 9.0}, {"covariance": "clip"}),
    ({"covariance_kl_coef": 2.0}, {"covariance": "kl", **SEVERAL}),
    ({"overlong_buffer": 0.5}, {"truncated": "penalize"}),
    ({"kl_in": "reward"}, {"kl_coef": 0.1}),
    ({"kl_estimator": "k2"}, {"kl_coef": 0.1}),
    ({"kl_unbiased": True}, {"kl_coef": 0.1}),
    ({"kl_target": 0.1}, {"kl_coef": 0.1}),
    ({"sync_reference_every": 5}, {"kl_coef": 0.1}),
    ({"sync_reference_mix": 0.5}, {"kl_coef": 0.1, "sync_reference_every": 5}),
    ({"reward_weights": RewardWeights(model=0.5)}, {"reward_model": "runs/rm"}),
]


@pytest.mark.parametrize(("setting", "needs"), IDLE, ids=str)
def test_a_setting_that_would_act_on_nothing_is_refused(setting: dict, needs: dict) -> None:
    """With what it needs, it is taken."""
    usual = {"kl_coef": 0.0}
    with pytest.raises(UserError, match="it would act on nothing") as refused:
        resolved(**{**usual, **setting})
    assert refused.value.message.partition(":")[0].partition(".")[0] in setting
    assert refused.value.hint
    resolved(**{**usual, **setting, **needs})


def test_what_would_hold_anyway_may_be_said() -> None:
    """A recorded config has every value written out: clip, estimator, critic."""
    for name in names():
        config = resolved(algorithm=name)
        assert resolved(**config.model_dump()) == config


def test_an_importance_weight_beside_a_ratio_to_the_same_sampler_is_refused() -> None:
    """pi_old of a stale batch is the sampler's: the weight pi_old / pi_sampler would be 1. Without a ratio it acts."""
    with pytest.raises(UserError, match="importance: it would act on nothing: pi_old of a stale batch"):
        resolved(algorithm="grpo", staleness=1, importance="truncate")
    assert resolved(algorithm="grpo", epochs_per_batch=2, importance="truncate").importance == "truncate"
    assert resolved(algorithm="rloo", staleness=1, importance="truncate").importance == "truncate"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"algorithm": "grpoo"}, "did you mean 'grpo'"),
        ({"prompts_per_step": 16, "steps_per_batch": 3}, "cannot be cut"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
    ],
)
def test_nonsense_is_refused(settings: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PolicyGradientConfig(**settings)


def test_allowed_combinations() -> None:
    assert resolved(algorithm="reinforce", group_size=1).group_size == 1
    assert resolved(algorithm="rloo", epochs_per_batch=2, importance="truncate").importance_cap == 2.0
    assert resolved(algorithm="ppo", group_size=1).critic is not None
    assert resolved(algorithm="grpo", kl_coef=0.1, kl_estimator="k1", kl_unbiased=True).kl_in == "loss"
    assert resolved(algorithm="grpo", nll_coef=0.2).nll_coef == 0.2
    assert resolved(algorithm="grpo", epochs_per_batch=2, steps_per_batch=4).epochs_per_batch == 2


def test_reinforce_with_kl_in_the_loss_is_a_user_error_or_works() -> None:
    try:
        config = resolved(algorithm="reinforce", kl_in="loss", kl_coef=0.1)
    except UserError:
        return
    assert config.kl_estimator in ("k2", "k3")


def test_kl_in_the_reward_is_k1() -> None:
    """See test_k3_in_the_reward_would_be_no_penalty_near_the_reference."""
    assert resolved(algorithm="grpo", kl_in="reward", kl_coef=0.1).kl_estimator == "k1"


def test_a_penalty_of_weight_0_leaves_a_reward_binary() -> None:
    """`kl_in: reward` changes no reward where its coefficient is 0: what is wrong is that nothing reads it."""
    with pytest.raises(UserError, match="kl_in: it would act on nothing"):
        resolve(PolicyGradientConfig(algorithm="maxrl", kl_in="reward"))


def test_partial_credit_is_not_binary() -> None:
    with pytest.raises(UserError, match=r"reward_weights\.partial"):
        resolve(PolicyGradientConfig(algorithm="maxrl", reward_weights=RewardWeights(partial=0.1)))


# ---------------------------------------------------------------------------------------------- the configs we ship


def config_class(family: str) -> type[Config]:
    module = importlib.import_module(f"{family}.config")
    own = [it for it in vars(module).values() if isinstance(it, type) and it.__module__ == module.__name__]
    *_, found = [it for it in own if issubclass(it, Config)]
    return found


@pytest.mark.parametrize("profile", ["laptop", "gpu"])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.parent.name}/{path.stem}")
def test_every_config_parses_for_both_profiles(path: Path, profile: str) -> None:
    cls = config_class(path.parent.parent.name)
    argv = ["--config", str(path), "--profile", profile]
    command = read_command(cls, argv, prog="test", description="", environ={}, cuda_gb=lambda: 0.0)
    assert isinstance(command.config, cls)
    if isinstance(command.config, PolicyGradientConfig):
        recipe = resolve(command.config)
        config = recipe.config
        assert all(value is not None for key, value in recipe.settings.items() if key != "dual_clip")
        if path.stem in names():
            assert config.algorithm == path.stem
            assert config.model_name == ("embedded" if profile == "laptop" else "Qwen/Qwen3-1.7B")


def test_configs_are_there() -> None:
    assert {f"{path.parent.parent.name}/{path.stem}" for path in CONFIGS} >= {
        *(f"policy_gradients/{name}" for name in names()),
        "instruction_tuning/sft",
        "instruction_tuning/embedded",
    }
