"""The settings that algorithms declare: as config keys, and as an algorithm in a new file brings them along."""

import importlib
import shutil
import sys
from functools import partial
from inspect import signature
from pathlib import Path
from typing import get_args
from unittest.mock import patch

import pytest
import shape_checks
import torch
from commands import Commands, Outcome
from pydantic import ValidationError

from policy_gradients import algorithms
from policy_gradients.algorithm import Algorithm, keyword_only, load, load_all
from policy_gradients.algorithm_settings import as_fields, declared_settings, declaring_files, off_policy_settings
from policy_gradients.config import SETTINGS, PolicyGradientConfig
from policy_gradients.published import _read as read_published
from policy_gradients.published import published
from policy_gradients.surrogates import clipped
from rlhf.config.declarations import NotPlainError

ROOT = Path(__file__).parents[2]
NEW = """
from functools import partial
from typing import Annotated

from pydantic import Field

from policy_gradients.advantages import center
from policy_gradients.algorithm import Algorithm
from policy_gradients.ratios import token_ratio
from rlhf.aggregate import token_mean

Sharpness = Annotated[float, Field(gt=0, le=9, description="How sharp the new loss is.")]


def sharp(logp, ratio, adv, mask, *, sharpness: Sharpness):
    return -sharpness * ratio * adv


sharpest = Algorithm(center, token_ratio, partial(sharp, sharpness=3.0), token_mean, frozenset({"groups"}))
"""


def test_declarations_are_those_of_the_imported_functions() -> None:
    """What is read from the files' text is what Python makes of them."""
    found = {}
    for algorithm in load_all().values():
        for function in (algorithm.advantage, algorithm.surrogate):
            parameters = signature(function).parameters
            found |= {name: parameters[name].annotation for name in keyword_only(function)}
    assert found.keys() == SETTINGS.keys()
    for name, annotation in found.items():
        (kind, field, *more), (wanted, declared, *others) = get_args(annotation), get_args(SETTINGS[name])
        assert (kind, field.description, field.metadata) == (wanted, declared.description, declared.metadata), name
        assert more == others, name


def test_what_is_published_is_read_from_the_files() -> None:
    """Without importing them: as Python makes it of them."""
    for file in algorithms.files():
        assert read_published(file) == load(file.stem).published, file.stem


def test_what_is_no_plain_declaration_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sharp_again.py").write_text(NEW.replace("sharpest =", "sharp_again ="))
    monkeypatch.setattr(algorithms, "__path__", [*algorithms.__path__, str(tmp_path)])
    with pytest.raises(NotPlainError):
        read_published(tmp_path / "sharp_again.py")
    assert published("sharp_again").settings == {"sharpness": 3.0}


def test_each_setting_has_bounds_or_choices_and_a_sentence() -> None:
    for name in SETTINGS:
        field = PolicyGradientConfig.model_fields[name]
        assert field.description
        assert field.description.endswith(".")
        assert field.metadata or "Literal" in str(field.annotation), name


def test_names_are_the_files() -> None:
    folder = ROOT / "policy_gradients" / "algorithms"
    assert algorithms.names() == sorted(path.stem for path in folder.glob("[a-z]*.py"))
    for name in algorithms.names():
        assert isinstance(load(name), Algorithm)
        assert (ROOT / "policy_gradients" / "configs" / f"{name}.yaml").is_file()


def test_a_setting_without_a_published_value_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"clip_low .*has no value: give it with functools\.partial"):
        keyword_only(partial(clipped, clip_high=0.2))


def test_a_new_file_is_an_algorithm_with_its_own_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sharpest.py").write_text(NEW)
    monkeypatch.setattr(algorithms, "__path__", [*algorithms.__path__, str(tmp_path)])
    assert "sharpest" in algorithms.names()
    settings = declared_settings(declaring_files())
    assert settings.keys() == {*SETTINGS, "sharpness"}
    kind, default = as_fields({"sharpness": settings["sharpness"]})["sharpness"]
    assert "How sharp the new loss is." in str(kind)
    assert default is None
    new = load("sharpest")
    assert new.settings == {"sharpness": 3.0}
    one = torch.ones(1, 1)
    assert new.surrogate(one, one, one, one.bool()).item() == -3


def test_nothing_but_a_file_is_needed_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A copy of the package with one more file: the algorithm is known, its setting is listed, and others refuse it."""
    shutil.copytree(ROOT / "policy_gradients", tmp_path / "policy_gradients")
    (tmp_path / "policy_gradients" / "algorithms" / "sharpest.py").write_text(NEW)
    monkeypatch.syspath_prepend(tmp_path)

    def command(*arguments: str) -> Outcome:
        return Commands(monkeypatch, capfd)._call(train.main, arguments)

    with patch.dict(sys.modules), shape_checks.left_out():
        for name in [name for name in sys.modules if name.partition(".")[0] == "policy_gradients"]:
            del sys.modules[name]
        train = importlib.import_module("policy_gradients.train")
        assert Path(train.__file__ or "").is_relative_to(tmp_path)
        listed = " ".join(command("--help").out.split())
        assert "How sharp the new loss is. [a number > 0 and <= 9 or null; default: null]" in listed
        assert "sharpness: 2" in command("--algorithm", "sharpest", "--sharpness", "2", "--show_config").out
        refused = command("--algorithm", "grpo", "--sharpness", "2", "--plan")
    assert refused.code == 2
    assert "sharpness: grpo does not have it" in refused.err
    assert "It belongs to sharpest." in refused.err


@pytest.mark.parametrize("name", algorithms.names())
def test_off_policy_settings_are_those_that_act_off_policy_alone(name: str) -> None:
    """At ratio 1 half of the value gives the same gradient, at some other ratio another one. A setting of an advantage
    acts wherever there is one."""
    algorithm = load(name)
    settings, off_policy = keyword_only(algorithm.surrogate), off_policy_settings(SETTINGS)
    assert not off_policy & keyword_only(algorithm.advantage).keys()
    assert settings.keys() <= off_policy
    sizes = torch.tensor([2e-4, 1.5e-3, 0.15, 0.35, 1.5])
    moved = torch.cat([sizes, -sizes, sizes, -sizes])[:, None]  # log-ratios, each way with each sign of the advantage
    adv = torch.tensor([1.0, -1.0]).repeat_interleave(10)[:, None]
    old, mask = torch.full((20, 1), -1.0), torch.ones(20, 1, dtype=torch.bool)

    def gradient(log_ratio: torch.Tensor, changed: dict) -> torch.Tensor:
        logp = (old + log_ratio).requires_grad_()
        loss = algorithm.surrogate(logp, algorithm.ratio(logp, old, mask), adv, mask, **settings | changed)
        return torch.autograd.grad(loss.sum(), logp)[0]

    for key, value in settings.items():
        changed = {key: 1.5 if value is None else value / 2}
        torch.testing.assert_close(gradient(0 * moved, {}), gradient(0 * moved, changed))
        assert not torch.allclose(gradient(moved, {}), gradient(moved, changed)), key


BOUNDS = {  # (the largest value that is refused below, the smallest that is refused above), where there is one
    "gamma": (0, 1.001),
    "gae_lambda": (-0.001, 1.001),
    "clip_low": (0, 1),
    "clip_high": (0, None),
    "dual_clip": (1, None),
    "tau_pos": (0, None),
    "tau_neg": (0, None),
    "log_clip": (0, None),
    "max_shift": (0, 1),
    "reward_shift": (-1, 1),
    "length_alpha": (0, None),
    "pass_k": (0, None),
    **dict.fromkeys(("k_pos", "lambda_pos", "k_neg", "lambda_neg"), (0, None)),
}


def test_bounds_are_those_of_the_equations() -> None:
    """A discount above 1 diverges, a ratio clipped at 0 or below has no meaning, and so on; what lies 0.01 inside is
    accepted."""
    assert BOUNDS.keys() == SETTINGS.keys() - {"baseline"}
    for name, (low, high) in BOUNDS.items():
        inside = [] if low is None else [1 if name == "pass_k" else low + 0.01]
        inside += [] if high is None else [high - 0.01]
        for value in inside:
            assert getattr(PolicyGradientConfig(**{name: value}), name) == value
        for value in (low, high):
            if value is not None:
                with pytest.raises(ValidationError, match=name):
                    PolicyGradientConfig(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("gamma", 1), ("gae_lambda", 0), ("gae_lambda", 1), ("clip_low", 0.999)])
def test_bounds_that_are_included(name: str, value: float) -> None:
    assert getattr(PolicyGradientConfig(**{name: value}), name) == value
