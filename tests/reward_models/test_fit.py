"""Every optimizer step of the loop that fits reward models, recomputed: one plain row an answer, and autograd."""

import json
from pathlib import Path

import pytest
import torch
from rm_commands import Commands
from steps_by_hand import check_adamw, check_gradient, record_steps, save_tiny
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid

from reward_models import fit
from reward_models.examples import Example
from rlhf.models.heads import head_of

SETTINGS = [
    *("--profile", "laptop", "--quiet", "--device", "cpu", "--max_steps", "3", "--batch_size", "4"),
    *("--lr", "0.01", "--lr_schedule", "linear", "--warmup_steps", "1", "--weight_decay", "0.1"),
    *("--adam_beta1", "0.8", "--adam_beta2", "0.95", "--max_grad_norm", "0.5", "--token_budget", "60"),
    *("--data.held_out", "4", "--data.validation", "4", "--extra_layers", "0", "--new_lr_factor", "1"),
    *("--save_every", "99", "--eval_every", "0", "--samples", "0"),
]


def rows(kind: str, count: int = 30) -> list[dict]:
    made = []
    for i in range(count):
        question, size = "q" * (i % 4) + str(i), i % 3 + 1
        if kind == "preference":
            made.append({"prompt": question, "chosen": "yes" * size, "rejected": "no", "margin": i % 5 / 4})
        elif kind == "outcome":
            texts = [f"{i}" * size, "no", "maybe"[: size + 1]]
            made.append({"question": question, "completions": texts, "labels": [True, False, i % 2 == 0]})
        else:
            labels = [1, 0, -1][: size + 1]
            made.append({"prompt": question, "completions": ["one", "two" * size, "3"][: size + 1], "labels": labels})
    return made


def logits(model: nn.Module, example: Example) -> list[Tensor]:
    """The head's output at each token of each answer (t, k)."""
    made = []
    for completion in example.group.completions:
        ids = torch.tensor([[*example.group.prompt, *completion]])
        states = model.base_model(input_ids=ids).last_hidden_state[0]
        made.append(head_of(model)(states[len(example.group.prompt) :]))
    return made


def by_hand(kind: str, model: nn.Module, examples: list[Example]) -> Tensor:
    """The step's loss: the mean over its questions, its tokens, or its labelled steps."""
    terms: list[Tensor] = []
    for example in examples:
        found = logits(model, example)
        if kind == "preference":
            better, worse = (it[-1, 0] for it in found)
            terms.append(-logsigmoid(better - worse - 0.7 * example.margin) + 0.05 * (better + worse) ** 2)
        for i, own in enumerate(found):
            counted = torch.tensor(example.group.loss_mask[i])
            if kind == "outcome":
                target = torch.full((int(counted.sum()),), float(example.right[i]))
                terms.extend(binary_cross_entropy_with_logits(own[counted, 0], target, reduction="none"))
            if kind == "process":
                target = torch.tensor(example.labels[i]) + 1
                terms.extend(cross_entropy(own[counted], target, reduction="none"))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("kind", ["preference", "outcome", "process"])
def test_a_step_is_the_mean_of_its_units(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """Three steps of four questions in several micro-batches; the metrics say the same loss."""
    monkeypatch.setattr("rlhf.run.session.write_report", lambda path: path)
    steps = record_steps(monkeypatch, "reward_models.fit")
    batches: list[list[Example]] = []
    parts: list[int] = []
    plain, cut = fit.in_epochs, fit.into_micro_batches

    def spy(*arguments, **named) -> list[Example]:
        batches.append(plain(*arguments, **named))
        return batches[-1]

    def count(*arguments, **named):
        made = cut(*arguments, **named)
        parts.append(len(made))
        return made

    monkeypatch.setattr(fit, "in_epochs", spy)
    monkeypatch.setattr(fit, "into_micro_batches", count)
    data, run = tmp_path / "d.jsonl", tmp_path / "run"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(kind)))
    extra = {
        "preference": ["--margin_scale", "0.7", "--centering", "0.05"],
        "outcome": ["--orm_loss", "tokens"],
        "process": [],
    }[kind]
    arguments = [*SETTINGS, *extra, "--data.path", data, "--model_name", save_tiny(tmp_path / "model")]
    outcome = commands.train(kind, *arguments, "--output_dir", run)
    assert outcome.code == 0, outcome.err
    assert min(parts) > 1, "a step in one piece shows no denominator"
    assert [step.lr for step in steps] == pytest.approx([0.01, 0.01, 0.005])
    check_adamw(steps, betas=(0.8, 0.95), weight_decay=0.1)
    assert len({example.question for batch in batches for example in batch}) == 12, "no question twice"
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for record, step, examples in zip(metrics, steps, batches, strict=True):
        model = step.at()
        loss = by_hand(kind, model, examples)
        assert record["loss"] == pytest.approx(float(loss.detach()), abs=1e-4)
        check_gradient(step, model, loss)
