"""Every optimizer step of the loop, recomputed: each conversation in a plain row of its own, and autograd."""

import json
from pathlib import Path

import pytest
import torch
from commands import Commands
from steps_by_hand import check_adamw, check_gradient, record_steps, save_tiny, token_logp
from torch import Tensor, nn

from instruction_tuning import evaluation
from instruction_tuning.losses import losses
from rlhf import groups
from rlhf.embedded.make import END, character_tokenizer
from rlhf.models.policy import load_policy
from rlhf.run.tracking import read_records

SETTINGS = [
    *("--profile", "laptop", "--quiet", "--device", "cpu", "--max_steps", "3", "--batch_size", "6"),
    *("--lr", "0.01", "--lr_schedule", "linear", "--warmup_steps", "1", "--weight_decay", "0.1"),
    *("--adam_beta1", "0.8", "--adam_beta2", "0.95", "--max_grad_norm", "0.5", "--data.held_out", "4"),
    *("--max_length", "200", "--save_every", "99", "--eval_every", "0"),
]


def conversations(count: int) -> list[list[dict[str, str]]]:
    """One turn or two, of unequal lengths."""
    made = []
    for i in range(count):
        turns = [("user", "x" * (i % 5) + str(i)), ("assistant", "y" * (i % 7 + 1))]
        if i % 3 == 0:
            turns += [("user", "and?"), ("assistant", f"z{i}")]
        made.append([{"role": role, "content": content} for role, content in turns])
    return made


def by_hand(conversation: list[dict[str, str]], *, last_turn_only: bool) -> tuple[list[int], list[bool]]:
    """<|role|>text<|end|> for each message; what the assistant says counts, its end token too."""
    tokenizer = character_tokenizer()
    ids: list[int] = []
    counts: list[bool] = []
    for i, message in enumerate(conversation):
        said = tokenizer.encode(message["content"] + END)
        learned = message["role"] == "assistant" and (not last_turn_only or i == len(conversation) - 1)
        ids += [*tokenizer.encode(f"<|{message['role']}|>"), *said]
        counts += [False, *[learned] * len(said)]
    return ids, counts


def nats(
    model: nn.Module, conversation: list[dict[str, str]], *, last_turn_only: bool = False, dft: bool = False
) -> tuple[Tensor, int]:
    """Negative log-likelihood of the tokens that count, summed, and their number; or their loss in DFT."""
    ids, counts = by_hand(conversation, last_turn_only=last_turn_only)
    counted = torch.tensor(counts[1:])
    logp = token_logp(model, ids[:1], ids[1:])[counted]
    weight = logp.detach().exp() if dft else torch.ones(len(logp))
    return -(weight * logp).sum(), int(counted.sum())


def test_dft_maximizes_the_mean_probability() -> None:
    """d(-sg(p) log p) = -dp: the exact gradient of minus the probability of the demonstrated token; of nll, -dp / p."""
    theta = torch.tensor([0.3, -1.0, 0.8], dtype=torch.float64, requires_grad=True)
    for target in range(3):
        (of_p,) = torch.autograd.grad(theta.softmax(0)[target], theta)
        for name, scale in (("dft", 1.0), ("nll", 1 / theta.softmax(0)[target].item())):
            loss = losses[name](theta.log_softmax(0)[target].view(1, 1)).sum()
            torch.testing.assert_close(torch.autograd.grad(loss, theta)[0], -scale * of_p)


@pytest.mark.parametrize(
    ("extra", "packs"),
    [
        (["--token_budget", "80"], False),
        (["--token_budget", "60", "--pack_to", "50"], True),
        (["--token_budget", "80", "--last_turn_only", "true"], False),
        (["--token_budget", "80", "--loss", "dft"], False),
    ],
    ids=["micro-batches", "packed", "last turn", "dft"],
)
def test_a_step_is_the_token_mean_of_its_conversations(
    monkeypatch: pytest.MonkeyPatch, capfd, tmp_path: Path, extra: list[str], packs: bool
) -> None:
    """Three steps of six conversations in several micro-batches, packed rows or not: the same gradient. The held-out
    loss is the token mean of whole conversations, before and after."""
    monkeypatch.setattr("rlhf.run.session.write_report", lambda path: path)
    last = "--last_turn_only" in extra
    known = {tuple(by_hand(it, last_turn_only=last)[0]): it for it in conversations(30)}
    steps = record_steps(monkeypatch, "rlhf.optimizer")
    batches: list[list] = []
    held_out: list = []
    layouts: list[tuple[int, int]] = []
    cut, score = groups.micro_batches, evaluation.score

    def conversation(group: groups.Group) -> list[dict[str, str]]:
        """The one that has these tokens, template and all."""
        return known[*group.prompt, *group.completions[0]]

    def spy(given, **how):
        made = cut(given, **how)
        layouts.append((len(made), max(len(rows.index) / len(rows.input_ids) for rows in made)))
        batches.append([conversation(group) for group in given])
        return made

    def spy_on_evaluation(scorer, given, **how):
        held_out[:] = [conversation(group) for group in given]
        return score(scorer, given, **how)

    monkeypatch.setattr(groups, "micro_batches", spy)
    monkeypatch.setattr(evaluation, "score", spy_on_evaluation)
    data, folder, run = tmp_path / "d.jsonl", save_tiny(tmp_path / "model"), tmp_path / "run"
    data.write_text("".join(json.dumps({"messages": it}) + "\n" for it in conversations(30)))
    arguments = [*SETTINGS, *extra, "--data.path", str(data), "--model_name", str(folder), "--output_dir", str(run)]
    outcome = Commands(monkeypatch, capfd).instruction_tuning(*arguments)
    assert outcome.code == 0, outcome.err
    assert all(parts > 1 for parts, _ in layouts), "a step in one piece shows no denominator"
    assert all((in_a_row > 1) == packs for _, in_a_row in layouts)
    assert [step.lr for step in steps] == pytest.approx([0.01, 0.01, 0.005])
    check_adamw(steps, betas=(0.8, 0.95), weight_decay=0.1)
    metrics = read_records(run / "metrics.jsonl")
    assert len({str(it) for own in batches for it in own}) == 18, "no conversation twice, of 24 or more"
    for record, step, own in zip(metrics, steps, batches, strict=True):
        model = step.at()
        parts = [nats(model, it, last_turn_only=last, dft="dft" in extra) for it in own]
        loss = torch.stack([it for it, _ in parts]).sum() / sum(n for _, n in parts)
        assert record["loss"] == pytest.approx(float(loss.detach()), abs=1e-4)
        check_gradient(step, model, loss)
    final = steps[-1].at()
    final.load_state_dict(steps[-1].after, strict=False)
    found = [it["value"] for it in read_records(run / "eval.jsonl") if it["metric"] == "loss"]
    assert not [it for it in held_out if it in [own for step in batches for own in step]]
    with torch.no_grad():
        for value, model in zip(found, (load_policy(str(folder)), final), strict=True):
            parts = [nats(model, it, last_turn_only=last) for it in held_out]
            assert value == pytest.approx(float(sum(it for it, _ in parts)) / sum(n for _, n in parts), abs=1e-4)
