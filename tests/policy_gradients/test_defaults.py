"""Which settings an algorithm gets, and which are refused."""

import importlib
from pathlib import Path

import pytest
from pydantic import ValidationError

from policy_gradients.algorithms import algorithms
from policy_gradients.config import ALGORITHM_NAMES, PolicyGradientConfig
from policy_gradients.defaults import resolve
from rlhf.config.command import read_command
from rlhf.config.schema import Config
from rlhf.errors import UserError

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(p for f in ("policy_gradients", "instruction_tuning") for p in ROOT.glob(f"{f}/configs/*.yaml"))


def resolved(**settings) -> PolicyGradientConfig:
    return resolve(PolicyGradientConfig(**settings))[0]


def test_names_are_the_files() -> None:
    assert list(algorithms) == ALGORITHM_NAMES


def test_published_settings_are_filled_in() -> None:
    grpo = resolved(algorithm="grpo")
    assert (grpo.clip_low, grpo.clip_high, grpo.kl_coef, grpo.kl_in, grpo.kl_estimator) == (
        0.2,
        0.2,
        0.04,
        "loss",
        "k3",
    )
    assert (grpo.aggregation, grpo.baseline) == ("sequence_mean", None)
    reinforce = resolved(algorithm="reinforce")
    assert (reinforce.baseline, reinforce.kl_coef, reinforce.kl_in) == ("running_mean", 0.0, "reward")
    assert (reinforce.aggregation, reinforce.kl_estimator, reinforce.clip_low) == ("sequence_sum", "k1", None)


def test_what_the_user_says_stays() -> None:
    config = resolved(algorithm="grpo", clip_high=0.28, kl_coef=0.0, kl_estimator="k2", aggregation="token_mean")
    assert (config.clip_low, config.clip_high, config.kl_coef) == (0.2, 0.28, 0.0)
    assert (config.kl_estimator, config.aggregation) == ("k2", "token_mean")
    assert resolved(algorithm="reinforce", baseline="none").baseline == "none"


def test_every_aggregation_is_found_by_name() -> None:
    for name, algorithm in algorithms.items():
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
        ({"algorithm": "cispo", "clip_low": 0.2}, "clip_low"),
        ({"algorithm": "grpo", "tau_pos": 1.0}, "tau_pos"),
        ({"algorithm": "grpo", "gae_lambda": 1.0}, "gae_lambda"),
        ({"algorithm": "grpo", "critic": {"lr": 1e-3}}, "critic"),
        ({"algorithm": "maxrl", "reward_weights": {"format": 0.1}}, "reward_weights.format"),
        ({"algorithm": "maxrl", "reward_weights": {"exact": 2.0}}, "reward_weights.exact"),
        ({"algorithm": "maxrl", "reward_functions": {"a.py:f": 1.0}}, "reward_functions"),
        ({"algorithm": "maxrl", "truncated": "penalize"}, "truncated"),
        ({"algorithm": "maxrl", "kl_in": "reward", "kl_coef": 0.1}, "kl_in"),
        ({"kl_in": "loss", "kl_estimator": "k1"}, "zero expected gradient"),
        ({"algorithm": "grpo", "kl_estimator": "k1", "kl_coef": 0.1}, "zero expected gradient"),
        ({"algorithm": "rloo", "kl_estimator": "k3", "kl_coef": 0.1}, "no penalty near the reference"),
        ({"kl_target": 0.1, "kl_coef": 0.0}, "kl_target"),
        ({"sync_reference_every": 5, "kl_coef": 0.0}, "sync_reference_every"),
        ({"sync_reference_every": 5, "kl_coef": 0.1, "lora_rank": 4}, "adapters"),
        ({"task": "gsm", "tasks": {"spell_backward": {}}}, "not both"),
    ],
)
def test_contradictions_are_refused(settings: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        resolved(**settings)


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


# ---------------------------------------------------------------------------------------------- the configs we ship


def config_class(family: str) -> type[Config]:
    module = importlib.import_module(f"{family}.config")
    classes = [it for it in vars(module).values() if isinstance(it, type) and issubclass(it, Config)]
    (found,) = [it for it in classes if it.__module__ == module.__name__]
    return found


@pytest.mark.parametrize("profile", ["laptop", "gpu"])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.parent.name}/{path.stem}")
def test_every_config_parses_for_both_profiles(path: Path, profile: str) -> None:
    cls = config_class(path.parent.parent.name)
    argv = ["--config", str(path), "--profile", profile]
    command = read_command(cls, argv, prog="test", description="", environ={}, cuda_gb=lambda: 0.0)
    assert isinstance(command.config, cls)
    if isinstance(command.config, PolicyGradientConfig):
        config, algorithm = resolve(command.config)
        assert all(getattr(config, key) is not None for key in algorithm.settings if key != "dual_clip")
        if path.stem in ALGORITHM_NAMES:
            assert config.algorithm == path.stem
            assert config.model_name == ("embedded" if profile == "laptop" else "Qwen/Qwen3-1.7B")


def test_configs_are_there() -> None:
    assert {f"{path.parent.parent.name}/{path.stem}" for path in CONFIGS} >= {
        *(f"policy_gradients/{name}" for name in ALGORITHM_NAMES),
        "instruction_tuning/sft",
        "instruction_tuning/embedded",
    }
