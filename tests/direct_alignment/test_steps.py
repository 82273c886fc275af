"""Every optimizer step of the loop, recomputed from the papers' formulas: one plain row a completion, and autograd."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from alignment_commands import Commands, labelled, uneven_pairs, write_rows
from steps_by_hand import Step, check_adamw, check_gradient, save_tiny, token_logp
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from direct_alignment.data import Example, Preferences
from rlhf.models.policy import load_policy
from rlhf.run.tracking import read_records
from rlhf.sampling import SampledCompletions

BATCH, STEPS, BETA = 4, 3, 0.3
BETAS, DECAY = (0.8, 0.95), 0.1
SETTINGS = [
    *("--profile", "laptop", "--quiet", "--task", "none", "--device", "cpu", "--token_budget", "70"),
    *("--max_steps", str(STEPS), "--batch_size", str(BATCH), "--lr", "0.01", "--lr_schedule", "linear"),
    *("--warmup_steps", "1", "--weight_decay", str(DECAY), "--max_grad_norm", "0.5", "--eval_samples", "4"),
    *("--adam_beta1", str(BETAS[0]), "--adam_beta2", str(BETAS[1]), "--max_new_tokens", "5", "--save_every", "99"),
    *("--data.held_out", "4", "--eval_every", "0", "--sample_every", "99"),
]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[Example]]:
    """The examples of each step to come."""
    seen: list[list[Example]] = []
    plain = Preferences.batch

    def spy(self: Preferences, step: int, count: int) -> list[Example]:
        seen.append(plain(self, step, count))
        return seen[-1]

    monkeypatch.setattr(Preferences, "batch", spy)
    return seen


def sums(model: nn.Module, prompt: Sequence[int], completions, counts) -> list[Tensor]:
    """log pi of completions, over the tokens that count."""
    made = []
    for completion, counted in zip(completions, counts, strict=True):
        made.append(token_logp(model, prompt, completion)[torch.tensor(counted)].sum())
    return made


def own(model: nn.Module, examples: Sequence[Example]) -> list[Tensor]:
    return [x for e in examples for x in sums(model, e.group.prompt, e.group.completions, e.group.loss_mask)]


def shared(model: nn.Module, examples: Sequence[Example]) -> list[Tensor]:
    """log pi of as many first tokens as the shorter completion of each pair has."""
    made = []
    for example in examples:
        shorter = min(len(completion) for completion in example.group.completions)
        for completion in example.group.completions:
            made.append(token_logp(model, example.group.prompt, completion)[:shorter].sum())
    return made


def own_weights(model: nn.Module, examples: Sequence[Example]) -> Tensor:
    """WPO's, from the whole distributions: exp of the mean over tokens that count of log(pi / sum_v pi_v^2)."""
    made = []
    for example in examples:
        prompt = list(example.group.prompt)
        for completion, counts in zip(example.group.completions, example.group.loss_mask, strict=True):
            tokens = torch.tensor([[*prompt, *completion]])
            p = model(tokens).logits[0, len(prompt) - 1 : -1].double().softmax(-1)
            picked = p[torch.arange(len(completion)), torch.tensor(completion)]
            made.append((picked / p.square().sum(-1)).log()[torch.tensor(counts)].mean().exp())
    return torch.stack(made).float()


def log_odds(m: Tensor) -> Tensor:
    return m - torch.log(1 - m.exp())


def by_hand(
    loss: str,
    logp: Tensor,
    ref: Tensor,
    length: Tensor,
    wanted: Tensor,
    z: float,
    s_shared: Tensor | None = None,
    w: Tensor | None = None,
) -> Tensor:
    """The loss of a whole step, of the config's beta; (c,) numbers in pairs, the chosen first."""
    s, m = logp - ref, logp / length
    if loss == "dpo":
        return -logsigmoid(BETA * (s[0::2] - s[1::2])).mean()
    if loss == "wpo":
        assert w is not None
        return -(w[0::2] * w[1::2] * logsigmoid(BETA * (s[0::2] - s[1::2]))).mean()
    if loss == "ld_dpo":
        assert s_shared is not None
        head = s_shared + 0.25 * (s - s_shared)
        return -logsigmoid(BETA * (head[0::2] - head[1::2])).mean()
    if loss == "ipo":
        return ((s / length)[0::2] - (s / length)[1::2] - 1 / (2 * BETA)).square().mean()
    if loss == "simpo":
        return -logsigmoid(BETA * (m[0::2] - m[1::2]) - 0.5 * BETA).mean()
    if loss == "orpo":
        return (-m[0::2] - 0.1 * logsigmoid(log_odds(m[0::2]) - log_odds(m[1::2]))).mean()
    if loss == "kto":
        z = max(0.0, z)
        return torch.where(wanted, 1 - torch.sigmoid(BETA * (s - z)), 1 - torch.sigmoid(BETA * (z - s))).mean()
    if loss == "bco":
        middle = (BETA * s[wanted].mean() + BETA * s[~wanted].mean()).detach() / 2
        return -logsigmoid(torch.where(wanted, BETA * s - middle, middle - BETA * s)).mean()
    assert loss == "aot"
    margin_ref = ref[0::2] - ref[1::2]
    margin = logp[0::2] - logp[1::2]
    return -logsigmoid(BETA * (margin.sort().values - margin_ref.sort().values)).mean()


def check(step: Step, examples: Sequence[Example], reference: nn.Module, loss: str) -> None:
    model = step.at()
    with torch.no_grad():
        ref = torch.stack(own(reference, examples))
        others = [e.mismatched for e in examples if e.mismatched is not None]
        moved = [
            float(now - before)
            for it in others
            for now, before in zip(
                sums(model, it.prompt, it.completions, it.loss_mask),
                sums(reference, it.prompt, it.completions, it.loss_mask),
                strict=True,
            )
        ]
    assert bool(moved) == (loss == "kto")
    length = torch.tensor([float(sum(counted)) for e in examples for counted in e.group.loss_mask])
    wanted = torch.tensor([label for e in examples for label in e.desirable])
    z = sum(moved) / max(1, len(moved))
    s_shared = None
    if loss == "ld_dpo":
        s_shared = torch.stack(shared(model, examples)) - torch.stack(shared(reference, examples)).detach()
    with torch.no_grad():
        w = own_weights(model, examples) if loss == "wpo" else None
    value = by_hand(loss, torch.stack(own(model, examples)), ref, length, wanted, z, s_shared, w)
    check_gradient(step, model, value)


@pytest.mark.parametrize("loss", ["dpo", "ipo", "simpo", "orpo", "kto", "bco", "aot", "ld_dpo", "wpo"])
def test_a_loss_of_pairs(commands: Commands, tmp_path: Path, steps, batches, loss: str) -> None:
    """Three steps of four pairs in micro-batches: the mean over the step's pairs, or completions, whatever the parts;
    log-ratios against the model as it was loaded."""
    data, folder = write_rows(tmp_path / "d.jsonl", uneven_pairs(24)), save_tiny(tmp_path / "model")
    run = tmp_path / "run"
    extra = ["--loss", loss, "--data.path", data, "--model_name", folder, "--output_dir", run]
    extra += [] if loss == "orpo" else ["--beta", str(BETA)]
    extra += ["--ld_alpha", "0.25"] if loss == "ld_dpo" else []
    outcome = commands.train(*SETTINGS, *extra)
    assert outcome.code == 0, outcome.err
    assert [step.lr for step in steps] == pytest.approx([0.01, 0.01, 0.005])
    check_adamw(steps, betas=BETAS, weight_decay=DECAY)
    initial = load_policy(str(folder))
    assert len({tuple(e.group.prompt) for batch in batches for e in batch}) == BATCH * STEPS, "no example twice"
    for step, examples in zip(steps, batches, strict=True):
        check(step, examples, initial, loss)
    for example in batches[0]:
        if loss == "kto":
            assert example.mismatched is not None
            assert example.mismatched.prompt == example.group.prompt
            assert example.mismatched.completions != example.group.completions


@pytest.mark.parametrize("loss", ["kto", "bco"])
def test_a_loss_of_labels(commands: Commands, tmp_path: Path, steps, batches, loss: str) -> None:
    """The mean over the step's completions, of which there is one an example."""
    data, folder = write_rows(tmp_path / "d.jsonl", labelled(24)), save_tiny(tmp_path / "model")
    extra = ["--loss", loss, "--beta", str(BETA), "--data.path", data, "--model_name", folder]
    outcome = commands.train(*SETTINGS, *extra, "--output_dir", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    initial = load_policy(str(folder))
    kinds = {label for batch in batches for e in batch for label in e.desirable}
    assert kinds == {True, False}
    for step, examples in zip(steps, batches, strict=True):
        check(step, examples, initial, loss)


def test_a_reference_that_moves(commands: Commands, tmp_path: Path, steps, batches) -> None:
    """Every second step it takes a quarter of the policy, and log-ratios are against it from then on; KL of samples is
    against the model as it was loaded all the same."""
    data, folder = write_rows(tmp_path / "d.jsonl", uneven_pairs(24)), save_tiny(tmp_path / "model")
    extra = ["--loss", "dpo", "--beta", str(BETA), "--data.path", data, "--model_name", folder]
    extra += ["--sync_reference_every", "2", "--sync_reference_mix", "0.25", "--max_steps", "5"]
    outcome = commands.train(*SETTINGS, *extra, "--output_dir", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    reference = load_policy(str(folder))
    for done, (step, examples) in enumerate(zip(steps, batches, strict=True), 1):
        check(step, examples, reference, "dpo")
        if done % 2 == 0:
            with torch.no_grad():
                for name, parameter in reference.named_parameters():
                    parameter.copy_(0.75 * parameter + 0.25 * step.after[name])


@pytest.mark.parametrize("loss", ["dpo", "simpo"])
def test_kl_of_samples(commands: Commands, tmp_path: Path, monkeypatch, steps, loss: str) -> None:
    """The mean of log pi - log pi_initial over completions that the policy wrote: 0 before, by hand after."""
    from direct_alignment import evaluation

    written: list[tuple[Sequence[Sequence[int]], Sequence[SampledCompletions]]] = []
    plain = evaluation.evaluate_samples

    def spy(prompts, samples, *arguments, **named):
        written.append((prompts, samples))
        return plain(prompts, samples, *arguments, **named)

    monkeypatch.setattr(evaluation, "evaluate_samples", spy)
    data, folder = write_rows(tmp_path / "d.jsonl", uneven_pairs(24)), save_tiny(tmp_path / "model")
    run = tmp_path / "run"
    extra = ["--loss", loss, "--data.path", data, "--model_name", folder, "--output_dir", run]
    outcome = commands.train(*SETTINGS, *extra)
    assert outcome.code == 0, outcome.err
    records = read_records(run / "eval.jsonl")
    kl = [it for it in records if it["metric"] == "kl"]
    initial, final = load_policy(str(folder)), steps[-1].at()
    final.load_state_dict(steps[-1].after, strict=False)
    prompts, samples = written[-1]
    with torch.no_grad():
        ratios = [
            float((token_logp(final, prompt, one.tokens[0]) - token_logp(initial, prompt, one.tokens[0])).sum())
            for prompt, one in zip(prompts, samples, strict=True)
        ]
    assert kl[0]["value"] == pytest.approx(0, abs=1e-4)
    assert kl[-1]["value"] == pytest.approx(sum(ratios) / len(ratios), abs=1e-3)
    assert abs(kl[-1]["value"]) > 0.01
    lengths = [it["value"] for it in records if it["metric"] == "length"]
    assert lengths[-1] == pytest.approx(sum(len(one.tokens[0]) for one in samples) / len(samples))
    assert kl[-1]["n"] == len(samples)


def test_held_out_pairs_are_measured_by_the_same_formulas(commands: Commands, tmp_path: Path, steps) -> None:
    """Loss, margin and log-probabilities of the last evaluation, from the final weights; loss log 2 at the start."""
    from direct_alignment import evaluation

    seen: list[Example] = []
    data, folder = write_rows(tmp_path / "d.jsonl", uneven_pairs(24)), save_tiny(tmp_path / "model")
    run = tmp_path / "run"
    plain = evaluation.evaluate_pairs

    def spy(model, examples, *arguments):
        seen[:] = examples
        return plain(model, examples, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "evaluate_pairs", spy)
        extra = ["--loss", "dpo", "--beta", str(BETA), "--data.path", data, "--model_name", folder]
        assert commands.train(*SETTINGS, *extra, "--output_dir", run).code == 0
    found: dict[tuple[str, str], list[float]] = {}
    for record in read_records(run / "eval.jsonl"):
        found.setdefault((record["data"], record["metric"]), []).append(record["value"])
    initial, final = load_policy(str(folder)), steps[-1].at()
    final.load_state_dict(steps[-1].after, strict=False)
    with torch.no_grad():
        logp, ref = torch.stack(own(final, seen)), torch.stack(own(initial, seen))
    s = logp - ref
    margin = BETA * (s[0::2] - s[1::2])
    assert found["held-out pairs", "loss"][0] == pytest.approx(0.6931, abs=1e-3)
    assert found["held-out pairs", "loss"][-1] == pytest.approx(float(-logsigmoid(margin).mean()), abs=1e-3)
    assert found["held-out pairs", "margin"][-1] == pytest.approx(float(margin.mean()), abs=1e-3)
    assert found["held-out pairs", "reward_accuracy"][-1] == pytest.approx(float((margin > 0).float().mean()))
    assert found["chosen", "logp"][-1] == pytest.approx(float(logp[0::2].mean()), abs=1e-2)
    assert found["rejected", "logp"][-1] == pytest.approx(float(logp[1::2].mean()), abs=1e-2)
