"""Steps that depend on earlier ones: stale batches, a reference that follows, a run that goes on from a checkpoint."""

from itertools import pairwise

import pytest
import torch
from policy_gradient_steps import (
    T,
    all_logp,
    clipped,
    rows_of,
    z_scores,
)
from steps_by_hand import check_gradient, k3, token_logp

from policy_gradients.sampler import Sampler
from rlhf.errors import UserError
from rlhf.evaluate.task import proportion
from rlhf.tasks.problem import Verdict
from rlhf.tasks.procedural import ProceduralTask


def test_a_stale_batch(run) -> None:
    """Two steps behind: what is trained on was sampled two steps ago, and the ratio is against what the sampler said
    then; no weight is left to apply, so that one is refused (test_defaults.py)."""
    extra = ["--algorithm", "grpo", "--staleness", "2", "--max_steps", "4", "--lr", "0.01", "--kl_coef", "0"]
    done = run(*extra)
    assert [[it.number for it in batch.rollouts] for batch in done.batches] == [
        [4 * k + i for i in range(4)] for k in range(4)
    ]
    for batch, step in zip(done.batches, done.steps, strict=True):
        model, adv = step.at(), z_scores(batch)
        sampler = [torch.tensor(logp) for it in batch.rollouts for logp in it.sampled.logp]
        terms = [
            clipped((token_logp(model, *row, T) - sampler[i]).exp(), adv[i], 0.2, 0.2).mean()
            for i, row in enumerate(rows_of(batch))
        ]
        check_gradient(step, model, torch.stack(terms).mean())


def test_a_reference_that_follows(run) -> None:
    """Every second batch it takes a quarter of the policy: the fifth batch's KL is against a mixture of four models."""
    extra = ["--algorithm", "grpo", "--kl_coef", "0.3", "--sync_reference_every", "2", "--sync_reference_mix", "0.25"]
    done = run(*extra, "--max_steps", "5", "--lr", "0.02")
    reference = run.reference
    for k, (batch, step) in enumerate(zip(done.batches, done.steps, strict=True)):
        model, ref = step.at(), all_logp(reference, batch)
        kl = torch.cat([k3(a, b) for a, b in zip(all_logp(model, batch), ref, strict=True)])
        assert done.metrics[k]["policy/kl"] == pytest.approx(float(kl.mean()), rel=1e-3)
        if k % 2:
            with torch.no_grad():
                for name, parameter in reference.named_parameters():
                    parameter.copy_(0.75 * parameter + 0.25 * step.after[name])
    assert all(a != b for a, b in pairwise(record["policy/kl"] for record in done.metrics))


def test_a_resumed_run_takes_the_steps_that_it_would_have_taken(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in its third batch: the running mean, the adapted coefficient, the moved reference, the batch that waits
    and the place in the stream are those of a run in one go, and so are the gradients and learning rates."""
    extra = ["--algorithm", "reinforce", "--staleness", "1", "--importance", "truncate", "--kl_in", "reward"]
    extra += ["--kl_coef", "0.05", "--kl_target", "0.1", "--sync_reference_every", "2", "--sync_reference_mix", "0.5"]
    extra += ["--max_steps", "4", "--save_every", "1", "--lr", "0.01", "--lr_schedule", "linear"]
    whole = run(*extra)
    expected, numbers = list(whole.steps), [[it.number for it in batch.rollouts] for batch in whole.batches]
    coefficients = [record["policy/kl_coef"] for record in whole.metrics]
    assert len(set(coefficients)) == 4
    whole.steps.clear()
    whole.batches.clear()
    batch = Sampler.batch

    def fails(self: Sampler, rollouts):
        if len(whole.batches) == 2:
            raise RuntimeError("the power went")
        return batch(self, rollouts)

    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "batch", fails)
        with pytest.raises(RuntimeError, match="the power went"):
            run(*extra, "--overwrite")
    again = run(*extra, "--resume")
    assert [[it.number for it in batch.rollouts] for batch in again.batches] == numbers
    assert len(again.steps) == 4
    for step, own in zip(again.steps, expected, strict=True):
        assert step.lr == own.lr
        for name, grad in own.grad.items():
            torch.testing.assert_close(step.grad[name], grad, atol=1e-6, rtol=1e-4)
    assert [record["policy/kl_coef"] for record in again.metrics] == pytest.approx(coefficients)


def test_nothing_to_learn_from_is_an_error(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """DAPO finds no group with right and wrong completions, and never had one."""
    monkeypatch.setattr(ProceduralTask, "verify", lambda *_: Verdict(0.0, 1.0, 0.0))
    with pytest.raises(UserError, match="has both right and wrong completions"):
        run("--algorithm", "dapo", "--kl_coef", "0", "--max_steps", "1")


def test_evaluation_asks_as_training_does(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the same system prompt, with the same room, sampled and greedy, before and after and every second step."""
    asked: list[dict] = []

    def evaluate_task(_model, _tokenizer, task, problems, _accelerator, **named) -> dict:
        asked.append({"task": task.name, "problems": len(problems), **named})
        return proportion(0, 1, data="d", metric="m")

    monkeypatch.setattr("rlhf.evaluate.held_out.evaluate_task", evaluate_task)
    extra = ["--algorithm", "grpo", "--kl_coef", "0", "--max_steps", "3", "--eval_every", "2", "--eval_problems", "2"]
    run(*extra, "--system_prompt", "Be brief.")
    assert [call["greedy"] for call in asked] == [False, True, False, False, True]
    for call in asked:
        assert call["system_prompt"] == "Be brief."
        assert call["max_new_tokens"] == 7
        assert call["problems"] == 2
