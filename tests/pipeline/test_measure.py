"""What is measured of a policy."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_model

from pipeline import measure
from pipeline.measure import Job, Proxy
from rlhf.errors import UserError
from rlhf.logprobs import Scorer
from rlhf.models.policy import load
from rlhf.models.reward_model import RewardModel
from rlhf.random_keys import of_samples

JOB = Job("grpo", 0, 0, "embedded", Proxy(("embedded-judge",)), "step_arithmetic", {}, problems=3, max_new_tokens=6)


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a policy a little off the embedded one."""
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    model, _ = load("embedded")
    with torch.no_grad():
        model.model.norm.weight *= 1.2
    save_model(Scorer(model), str(tmp_path / "model.safetensors"))  # as a trainer has it
    return tmp_path


def test_other_weights_are_measured_anew(checkpoint: Path) -> None:
    job = Job(**{**vars(JOB), "checkpoint": str(checkpoint)})
    near = measure.measure(job)
    model, _ = load("embedded")
    with torch.no_grad():
        model.model.norm.weight *= 2
    save_model(Scorer(model), str(checkpoint / "model.safetensors"))
    assert sum(measure.measure(job)["kl"]) > sum(near["kl"])


def test_a_checkpoint_is_measured_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(**{**vars(JOB), "step": 6, "checkpoint": str(checkpoint)})
    found = measure.measure(job)
    assert {len(found[name]) for name in ("gold", "proxy", "kl", "length", "samples")} == {3}
    assert all(kl > 0 for kl in found["kl"])
    monkeypatch.setattr(measure, "_measure_policy", lambda job: pytest.fail("measured twice"))
    assert measure.measure(Job(**{**vars(job), "line": "other", "step": 7})) == found


def test_the_start_is_at_no_distance_and_best_of_n_has_lists(checkpoint: Path) -> None:
    assert measure.measure(JOB)["kl"] == [0.0] * 3
    several = measure.measure(Job(**{**vars(JOB), "completions": 4}))
    assert [len(of) for of in several["proxy"]] == [4, 4, 4]
    assert [len(of) for of in several["gold"]] == [4, 4, 4]


def test_best_of_n_of_another_seed_is_of_other_completions(checkpoint: Path) -> None:
    one, other = (measure.measure(Job(**{**vars(JOB), "completions": 4, "seed": seed})) for seed in (0, 1))
    assert one["proxy"] != other["proxy"]


def test_every_problem_has_random_numbers_of_its_own(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for every policy."""
    keys, plain = [], measure.sample

    def sample(*given: Any, **how: Any) -> Any:
        keys.append(how["keys"])
        return plain(*given, **how)

    monkeypatch.setattr(measure, "sample", sample)
    for checkpoint_of_it in (None, str(checkpoint)):
        measure.measure(Job(**{**vars(JOB), "checkpoint": checkpoint_of_it}))
    assert keys == [[of_samples(0), of_samples(1), of_samples(2)]] * 2


def test_an_ensemble_is_put_together_as_the_line_says(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def open_model(names: list[str], *, combine: str) -> RewardModel:
        opened.append((names, combine))
        return object.__new__(RewardModel)

    monkeypatch.setattr(measure, "RewardModel", open_model)
    measure._open(Proxy(("a", "b"), "min"))
    assert opened == [(["a", "b"], "min")]


def test_adapters_are_no_policy(checkpoint: Path) -> None:
    save_model(torch.nn.Linear(2, 2), str(checkpoint / "model.safetensors"))
    with pytest.raises(UserError, match="does not hold the weights of 'embedded'"):
        measure.measure(Job(**{**vars(JOB), "checkpoint": str(checkpoint)}))
