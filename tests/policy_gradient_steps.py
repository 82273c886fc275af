"""Runs of the policy-gradient loop whose every optimizer step is kept, to be recomputed by a test.

Completions are drawn from numbers, not from the policy, so that they are of all lengths and the sampler's
log-probabilities are off; their rewards are a function of their text.
"""

import json
import statistics
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from steps_by_hand import Step, record_steps, save_tiny, token_logp
from torch import Tensor, nn

from policy_gradients.config import PolicyGradientConfig
from policy_gradients.rollout import Batch, Rollout
from policy_gradients.sampler import Sampler
from policy_gradients.train import DEFAULT, train
from rlhf.config.command import read_command
from rlhf.evaluate.task import proportion
from rlhf.groups import Group
from rlhf.models.policy import load_policy
from rlhf.sampling import SampledCompletions
from rlhf.tasks.problem import Verdict
from rlhf.tasks.procedural import ProceduralTask

G, T = 3, 0.8  # completions of a prompt, temperature
BETAS, DECAY = (0.8, 0.95), 0.1
LONGEST = 7
SETTINGS = [
    *("--profile", "laptop", "--quiet", "--device", "cpu", "--eval_problems", "1", "--save_every", "99"),
    *("--prompts_per_step", "4", "--group_size", str(G), "--max_new_tokens", str(LONGEST), "--temperature", str(T)),
    *("--token_budget", "90", "--weight_decay", str(DECAY), "--max_grad_norm", "0.5"),
    *("--adam_beta1", str(BETAS[0]), "--adam_beta2", str(BETAS[1]), "--reward_weights.exact", "0"),
]


class Run:
    """A run of the loop: what it trained on, the optimizer steps that it took, and what it logged."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.steps: list[Step] = []
        self.rewarded: dict[int, Rollout] = {}  # every rollout by its number, used or not
        self.metrics: list[dict[str, float]] = []

    def of(self, kind: str) -> list[Step]:
        return [step for step in self.steps if (type(step.module).__name__ == "Critic") == (kind == "critic")]


def drawn(
    model: nn.Module, prompts: Sequence, *, completions: int, end_tokens: Sequence[int], keys, temperature: float, **_
) -> list:
    made = []
    for prompt, key in zip(prompts, keys, strict=True):
        drawn_by = list(key) if temperature else [*key, "greedy"]
        generator = torch.Generator().manual_seed(zlib.crc32(repr(drawn_by).encode()))
        sampled = SampledCompletions([], [], [])
        for _ in range(completions):
            size = int(torch.randint(1, LONGEST + 1, (1,), generator=generator))
            tokens = torch.randint(12, 100, (size,), generator=generator).tolist()
            if size < LONGEST:
                tokens[-1] = end_tokens[0]
            with torch.no_grad():
                noise = 0.2 * torch.randn(size, generator=generator)
                logp = (token_logp(model, prompt, tokens, T) + noise).tolist()
            sampled.tokens.append(tokens)
            sampled.logp.append(logp)
            sampled.truncated.append(size == LONGEST)
        made.append(sampled)
    return made


def score_of(text: str) -> int:
    return zlib.crc32(text.encode()) % 97


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that trains and returns a `Run`."""
    found = Run()
    monkeypatch.setattr("rlhf.run.session.write_report", lambda path: path)
    monkeypatch.setattr("rlhf.evaluate.held_out.evaluate_task", lambda *_, **__: proportion(0, 1, data="d", metric="m"))
    monkeypatch.setattr("policy_gradients.sampler.sample", drawn)
    monkeypatch.setattr(ProceduralTask, "verify", lambda _, __, text: Verdict(float(score_of(text) % 2), 1.0, 0.0))
    batch, rewarded = Sampler.batch, Sampler.reward_rollouts

    def seen(self: Sampler, rollouts: list[Rollout]) -> Batch:
        found.batches.append(batch(self, rollouts))
        return found.batches[-1]

    def remembered(self: Sampler, *arguments) -> list[Rollout]:
        made = rewarded(self, *arguments)
        found.rewarded |= {rollout.number: rollout for rollout in made}
        return made

    monkeypatch.setattr(Sampler, "batch", seen)
    monkeypatch.setattr(Sampler, "reward_rollouts", remembered)
    found.steps = record_steps(monkeypatch, "policy_gradients.update", "policy_gradients.critic")
    model = save_tiny(tmp_path / "model")
    other = save_tiny(tmp_path / "other", seed=1)
    monkeypatch.setattr("rlhf.run.session.Session.load_reference", lambda _, **__: load_policy(str(other)).eval())
    function = tmp_path / "mine.py"
    function.write_text(
        "import zlib\ndef mine(question, completion, answer):\n    return zlib.crc32(completion.encode()) % 97 / 48\n"
    )

    def go(*arguments: str) -> Run:
        argv = [*SETTINGS, "--model_name", str(model), "--reward_functions", f"{{'{function}:mine': 1.0}}"]
        argv += [*arguments, "--output_dir", str(tmp_path / "run")]
        command = read_command(PolicyGradientConfig, argv, prog="", description="", default_config=DEFAULT, environ={})
        assert train(command).finished
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        found.metrics = [json.loads(line) for line in lines]
        assert [record["optim/lr"] for record in found.metrics][-1] == found.of("policy")[-1].lr
        return found

    go.reference = load_policy(str(other)).eval()  # type: ignore[attr-defined]
    return go


# ------------------------------------------------------------------------------------------------------ the formulas


def rows_of(batch: Batch) -> list[tuple[list[int], list[int]]]:
    """Prompt and tokens of each completion."""
    return [(it.prompt, tokens) for it in batch.rollouts for tokens in it.sampled.tokens]


def all_logp(model: nn.Module, batch: Batch) -> list[Tensor]:
    with torch.no_grad():
        return [token_logp(model, *row, T) for row in rows_of(batch)]


def z_scores(batch: Batch) -> list[float]:
    made = []
    for rewards in batch.reward.tolist():
        mean, std = statistics.fmean(rewards), statistics.stdev(rewards)
        made += [0.0 if len(set(rewards)) == 1 else (r - mean) / (std + 1e-4) for r in rewards]
    return made


def clipped(ratio: Tensor, adv: Tensor | float, low: float, high: float) -> Tensor:
    adv = torch.as_tensor(adv)
    return -torch.minimum(ratio * adv, ratio.clamp(1 - low, 1 + high) * adv)


def parts(batch: Batch, run_steps: Sequence[Step], cuts: int) -> list[tuple[Step, range]]:
    """Which completions each optimizer step on a batch is for."""
    size = len(batch.rollouts) // cuts * G
    return [(step, range(i % cuts * size, (i % cuts + 1) * size)) for i, step in enumerate(run_steps)]


def linear(peak: float, warmup: int, total: int) -> list[float]:
    return [peak * min((k + 1) / warmup, (total - k) / (total - warmup) if k >= warmup else 1) for k in range(total)]


def batch_of_two_prompts() -> Batch:
    """Two completions of each; the third is cut and does not count in the loss."""
    length = torch.tensor([1, 3, 2, 1])
    generated = torch.arange(3) < length[:, None]
    counts = torch.tensor([True, True, False, True])
    return Batch(
        rollouts=[],
        groups=[Group([1], [[2], [3, 4, 5]]), Group([1], [[2, 3], [4]])],
        reward=torch.tensor([[1.0, 0.0], [2.0, 4.0]]),
        length=length,
        truncated=~counts,
        logp_sampler=torch.zeros(4, 3),
        mask=generated & counts[:, None],
    )
