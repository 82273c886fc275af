"""The training loop itself, on the embedded model: what it adds to the parts that the other tests hold."""

import json
from pathlib import Path

import pytest

from policy_gradients.config import PolicyGradientConfig
from policy_gradients.train import DEFAULT, train
from rlhf.config import read_command
from rlhf.evaluation import proportion

SMALL = [
    *("--profile", "laptop", "--quiet", "--max_new_tokens", "26", "--eval_problems", "1", "--save_every", "99"),
    *("--prompts_per_step", "4", "--group_size", "4", "--max_grad_norm", "1000", "--warmup_steps", "0"),
    *("--task_config", "{min_word_len: 3, max_word_len: 4}", "--reward_weights.partial", "1"),
]


@pytest.fixture(autouse=True)
def _nothing_but_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf.session.write_report", lambda path: path)
    monkeypatch.setattr("rlhf.evaluation.evaluate_task", lambda *_, **__: proportion(0, 1, data="d", metric="m"))


def records(path: Path, *arguments: str) -> list[dict[str, float]]:
    """What metrics.jsonl of a run holds, step by step."""
    argv = [*SMALL, "--output_dir", str(path), *arguments]
    command = read_command(PolicyGradientConfig, argv, prog="", description="", default_config=DEFAULT, environ={})
    assert train(command) == 0
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("algorithm", "extra"), [("grpo", ["--epochs_per_batch", "2", "--steps_per_epoch", "2"]), ("reinforce", [])]
)
def test_the_token_budget_is_not_felt(tmp_path: Path, algorithm: str, extra: list[str]) -> None:
    """Micro-batches of one completion, or of all of them. At this lr, nothing moves by more than rounding.

    With two passes of two optimizer steps, each step takes its own half of the advantages and old log-probabilities.
    """
    shared = ["--algorithm", algorithm, "--max_steps", "2", "--lr", "1e-9"]
    shared += ["--kl_coef", "0.1", *extra]
    whole = records(tmp_path / "whole", *shared)
    cut = records(tmp_path / "cut", *shared, "--token_budget", "50")
    assert len(whole) == 2
    for a, b in zip(whole, cut, strict=True):
        for key in ("loss", "optim/grad_norm", "policy/entropy", "reward/mean", "length/mean"):
            assert a[key] == pytest.approx(b[key], rel=1e-3, abs=1e-6), key
        assert a["sampler/logp_gap"] < 1e-4
        assert a["policy/kl"] == pytest.approx(0, abs=1e-6)
        assert a["optim/grad_norm"] > 0.01
        if algorithm == "grpo":
            assert (a["policy/ratio_min"], a["policy/ratio_max"]) == (pytest.approx(1, abs=1e-3),) * 2


@pytest.mark.parametrize(
    ("algorithm", "coef", "arguments"),
    [("reinforce", "5", ["--kl_in", "reward", "--baseline", "none"]), ("grpo", "5", ["--kl_estimator", "k2"])],
)
def test_the_kl_term_holds_the_policy_back(tmp_path: Path, algorithm: str, coef: str, arguments: list[str]) -> None:
    """A penalty paid out instead of charged would drive the policy away: the same run with and without."""
    shared = ["--algorithm", algorithm, "--max_steps", "4", "--lr", "5e-4", *arguments]
    free, held = (records(tmp_path / c, *shared, "--kl_coef", c)[-1]["policy/kl"] for c in ("1e-9", coef))
    print(free, held)
    assert held < 0.5 * free
