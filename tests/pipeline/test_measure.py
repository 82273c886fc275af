"""What is measured of a policy."""

from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_model
from tiny_models import tiny_model

from pipeline import measure
from pipeline.measure import Job, Proxy, exact_kl
from rlhf.errors import UserError
from rlhf.groups import Group
from rlhf.logprobs import Scorer, score
from rlhf.models.policy import load

JOB = Job("grpo", 0, 0, "embedded", Proxy(("embedded-judge",)), "step_arithmetic", {}, problems=3, max_new_tokens=6)


def test_exact_kl_has_the_mean_of_the_kl_of_all_completions() -> None:
    """The vocabulary has 4 tokens and a completion 3, so all 64 can be listed: E_pi[sum over tokens of the KL of the
    next token] is KL(pi || start) = sum_y pi(y) (log pi(y) - log start(y)) of whole completions."""
    policy, start = tiny_model("qwen3", vocabulary=4), tiny_model("qwen3", vocabulary=4, seed=1)
    groups = [Group([0, 2, 1], [list(y)]) for y in product(range(4), repeat=3)]
    logp, logp_start = (
        score(Scorer(model), groups, token_budget=999, device=torch.device("cpu")).logp.double().sum(1)
        for model in (policy, start)
    )
    assert float(logp.exp().sum()) == pytest.approx(1, abs=1e-5)
    wanted = float(logp.exp() @ (logp - logp_start))
    assert float(logp.exp() @ exact_kl(policy, start, groups).double()) == pytest.approx(wanted, rel=1e-4)
    assert wanted > 0.1


def test_exact_kl_of_completions_of_unequal_length() -> None:
    """A completion alone has what it has beside a longer one."""
    policy, start = tiny_model("qwen3"), tiny_model("qwen3", seed=1)
    groups = [Group([5, 6], [[1, 2]]), Group([7], [[3, 4, 5, 6]])]
    both = exact_kl(policy, start, groups)
    assert both.tolist() == pytest.approx([float(exact_kl(policy, start, [group])) for group in groups], rel=1e-4)


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a policy a little off the embedded one."""
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    model, _ = load("embedded")
    with torch.no_grad():
        model.model.norm.weight *= 1.2
    save_model(Scorer(model), str(tmp_path / "model.safetensors"))  # as a trainer has it
    return tmp_path


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


def test_adapters_are_no_policy(checkpoint: Path) -> None:
    save_model(torch.nn.Linear(2, 2), str(checkpoint / "model.safetensors"))
    with pytest.raises(UserError, match="does not hold the weights of 'embedded'"):
        measure.measure(Job(**{**vars(JOB), "checkpoint": str(checkpoint)}))
