"""The training loop itself, on the embedded model: what it adds to the parts that the other tests hold."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from policy_gradients.algorithm import load
from policy_gradients.config import PolicyGradientConfig
from policy_gradients.train import DEFAULT, train
from rlhf.config.command import read_command
from rlhf.evaluate.task import proportion
from rlhf.models.policy import load_policy

ROOT = Path(__file__).parents[2]
SMALL = [
    *("--profile", "laptop", "--quiet", "--max_new_tokens", "26", "--eval_problems", "1", "--save_every", "99"),
    *("--prompts_per_step", "4", "--group_size", "4", "--max_grad_norm", "1000", "--warmup_steps", "0"),
    *("--task_config", "{min_word_len: 3, max_word_len: 4}", "--reward_weights.partial", "1"),
]


@pytest.fixture(autouse=True)
def _nothing_but_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf.run.session.write_report", lambda path: path)
    monkeypatch.setattr("rlhf.evaluate.held_out.evaluate_task", lambda *_, **__: proportion(0, 1, data="d", metric="m"))


def records(path: Path, *arguments: str) -> list[dict[str, float]]:
    """What metrics.jsonl of a run holds, step by step."""
    argv = [*SMALL, "--output_dir", str(path), *arguments]
    command = read_command(PolicyGradientConfig, argv, prog="", description="", default_config=DEFAULT, environ={})
    assert train(command).finished
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def replace_choices(monkeypatch: pytest.MonkeyPatch, name: str, **choices) -> None:
    monkeypatch.setattr(f"policy_gradients.algorithms.{name}.{name}", replace(load(name), **choices))


@pytest.mark.parametrize(
    ("algorithm", "extra"), [("grpo", ["--epochs_per_batch", "2", "--steps_per_batch", "2"]), ("reinforce", [])]
)
def test_a_step_does_not_depend_on_the_token_budget(tmp_path: Path, algorithm: str, extra: list[str]) -> None:
    """Micro-batches of one completion, or of all of them. At this lr, nothing moves by more than rounding.

    With two passes of two optimizer steps, each step takes its own half of the advantages and old log-probabilities.
    """
    shared = ["--algorithm", algorithm, "--max_steps", "2", "--lr", "1e-9"]
    shared += ["--kl_coef", "0.1", "--temperature", "0.8", *extra]
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


@pytest.fixture
def _other_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference that is not the policy, so that a KL term is felt in the first step."""

    def load(session, *, moves: bool) -> PreTrainedModel:
        generator, reference = torch.Generator().manual_seed(0), load_policy(session.config.model_name)
        for parameter in reference.parameters():
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
        return reference.eval().requires_grad_(False)

    monkeypatch.setattr("rlhf.run.session.Session.load_reference", load)


@pytest.mark.usefixtures("_other_reference")
def test_kl_in_the_reward_is_charged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean reward that becomes an advantage is lower than the one that was earned, by coef * KL."""
    seen: list[Tensor] = []

    def spy(reward: Tensor, mean_so_far: float) -> Tensor:
        seen.append(reward)
        return reward - mean_so_far

    replace_choices(monkeypatch, "reinforce", advantage=spy)
    (record,) = records(tmp_path / "run", "--algorithm", "reinforce", "--max_steps", "1", "--kl_coef", "0.1")
    charged = record["reward/mean"] - seen[0].mean().item()
    assert record["policy/kl"] > 0.05
    assert charged == pytest.approx(0.1 * record["policy/kl"] * record["length/mean"], rel=0.5)


@pytest.mark.usefixtures("_other_reference")
def test_kl_in_the_loss_is_added(tmp_path: Path) -> None:
    """On-policy, GRPO's own loss is the mean of z scores, 0; what is left is coef * k3, mean over sequences."""
    (record,) = records(tmp_path / "run", "--algorithm", "grpo", "--max_steps", "1", "--kl_coef", "0.1")
    assert record["policy/kl"] > 0.05
    assert record["loss"] == pytest.approx(0.1 * record["policy/kl"], rel=0.2)


def test_the_baseline_is_the_mean_of_earlier_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0 for the first batch, its mean for the second, then 0.9 of the old and 0.1 of the new; never the batch's own."""
    seen: list[float] = []

    def spy(reward: Tensor, mean_so_far: float) -> Tensor:
        seen.append(mean_so_far)
        return reward - mean_so_far

    replace_choices(monkeypatch, "reinforce", advantage=spy)
    first, second, *_ = records(tmp_path / "run", "--algorithm", "reinforce", "--max_steps", "3")
    assert first["reward/mean"] != second["reward/mean"]
    mean = first["reward/mean"]
    assert seen == [0, pytest.approx(mean), pytest.approx(0.9 * mean + 0.1 * second["reward/mean"])]


@pytest.mark.usefixtures("_other_reference")
def test_the_kl_coefficient_adapts(tmp_path: Path) -> None:
    """Far above its target, by 2 % a batch: 0.1 * (1 + 0.1 * 0.2), and so on (Ziegler et al. 2019)."""
    extra = ["--algorithm", "grpo", "--kl_coef", "0.1", "--kl_target", "0.001", "--max_steps", "3"]
    coefs = [record["policy/kl_coef"] for record in records(tmp_path / "run", *extra)]
    assert coefs == [pytest.approx(0.1), pytest.approx(0.102), pytest.approx(0.10404)]


@pytest.mark.usefixtures("_other_reference")
def test_the_reference_follows(tmp_path: Path) -> None:
    """After two steps it is the policy itself: the KL of the third batch is that of one update, not of two models."""
    extra = ["--kl_coef", "0.1", "--sync_reference_every", "2", "--max_steps", "3", "--lr", "1e-9"]
    kl = [record["policy/kl"] for record in records(tmp_path / "run", *extra)]
    assert kl[0] > 0.05
    assert kl[1] > 0.05
    assert kl[2] == pytest.approx(0, abs=1e-5)


def test_staleness_trains_on_what_was_sampled_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps behind: the first three batches are all sampled at the start, and the third sees a ratio off 1."""
    from policy_gradients.sampler import Sampler

    numbers: list[int] = []
    draw = Sampler.draw
    monkeypatch.setattr(Sampler, "draw", lambda self, first, **how: numbers.append(first) or draw(self, first, **how))
    made = records(tmp_path / "run", "--staleness", "2", "--max_steps", "4", "--lr", "1e-3")
    assert numbers == [0, 4, 8, 12, 16, 20]
    assert made[0]["policy/ratio_max"] == pytest.approx(1, abs=1e-3)
    assert made[2]["policy/ratio_max"] > 1.01


def test_importance_weights_let_reinforce_use_a_batch_again(tmp_path: Path) -> None:
    extra = ["--algorithm", "rloo", "--epochs_per_batch", "3", "--lr", "1e-3", "--importance", "truncate"]
    (record,) = records(tmp_path / "run", *extra, "--max_steps", "1")
    assert 0.5 < record["policy/importance"] < 1.5
    assert record["policy/importance"] != pytest.approx(1, abs=1e-4)


def test_only_the_critic_learns_while_it_warms_up(tmp_path: Path) -> None:
    extra = ["--algorithm", "ppo", "--critic.warmup_batches", "1", "--max_steps", "2"]
    first, second = records(tmp_path / "run", *extra)
    assert "loss" not in first
    assert "optim/grad_norm" not in first
    assert first["critic/grad_norm"] > 0
    assert second["optim/grad_norm"] > 0
    assert second["critic/loss"] != first["critic/loss"]


def test_a_mixture_and_an_own_reward(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("def short(question, completion, answer):\n    return float(len(completion) < 20)\n")
    extra = ["--tasks", "{spell_backward: {weight: 3}, step_arithmetic: {}}", "--task_config", "{}"]
    extra += ["--reward_functions", f"{{'{mine}:short': 0.5}}", "--max_steps", "1", "--reward_weights.partial", "0"]
    (record,) = records(tmp_path / "run", *extra)
    assert record["reward/mean"] == pytest.approx(record["reward/exact"] + 0.5 * record["reward/short"])


def test_the_critic_is_taught_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a completion's last token the target is its reward: the advantage before whitening, plus the value."""
    seen = []

    monkeypatch.setattr("policy_gradients.critic.CriticLearner.update", lambda _, part: seen.append(part))
    records(tmp_path / "run", "--algorithm", "ppo", "--max_steps", "1", "--kl_coef", "0")
    (part,) = seen
    assert not part.value.any(), "a new critic's"
    at_the_end = part.target[torch.arange(len(part.target)), part.length - 1]
    torch.testing.assert_close(at_the_end, part.reward.flatten())


def test_each_part_of_a_batch_has_its_own_advantages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two optimizer steps on a batch of 16 completions, numbered: together they see each once."""
    seen = []

    def surrogate(logp: Tensor, ratio: Tensor, adv: Tensor, _mask: Tensor) -> Tensor:
        seen.extend(adv[:, 0].tolist())
        return -adv * ratio + 0 * logp

    def numbered(reward: Tensor) -> Tensor:
        return torch.arange(float(reward.numel())).view_as(reward)

    replace_choices(monkeypatch, "grpo", advantage=numbered, surrogate=surrogate)
    records(tmp_path / "run", "--algorithm", "grpo", "--max_steps", "1", "--steps_per_batch", "2")
    assert sorted(seen) == list(range(16))
    assert sorted(seen[:8]) == list(range(8))


def test_importance_weights_leave_to_the_ratio_what_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They weigh the old policy against the sampler, on each pass the same; what has moved since is in the ratio."""
    from policy_gradients.ratios import importance_weight

    seen: list[tuple[Tensor, Tensor]] = []

    def spy(moved: Tensor, logp_sampler: Tensor, mask: Tensor, **how) -> Tensor:
        seen.append((moved.detach().clone(), logp_sampler))
        return importance_weight(moved, logp_sampler, mask, **how)

    monkeypatch.setattr("policy_gradients.defaults.importance_weight", spy)
    weighed = ["--algorithm", "grpo", "--importance", "truncate", "--lr", "1e-3", "--token_budget", "100000"]
    records(tmp_path / "passes", *weighed, "--max_steps", "1", "--epochs_per_batch", "2")
    (first, _), (second, _) = seen
    assert torch.equal(first, second)
