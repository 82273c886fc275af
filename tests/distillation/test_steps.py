"""Every optimizer step of the loop, recomputed: each completion in a plain row of its own, the models' own logits over
the whole vocabulary, and autograd."""

from pathlib import Path
from typing import Any

import pytest
import torch
from steps_by_hand import Step, check_gradient, norm_of, record_steps, save_tiny
from torch import Tensor, nn

from distillation import batches
from distillation.batches import Answers
from distillation.objectives import forward_kl, jsd, reverse_kl, top_k
from distillation.train import read, train
from rlhf.models.policy import load_policy
from rlhf.run.tracking import read_records
from rlhf.tasks.problem import Verdict
from rlhf.tasks.procedural import ProceduralTask

T, TAU = 0.8, 0.5  # of both sides; of the teacher alone
SETTINGS = [
    *("--profile", "laptop", "--quiet", "--device", "cpu", "--precision", "fp32", "--max_steps", "2"),
    *("--eval_problems", "1", "--eval_every", "0", "--save_every", "99", "--prompts_per_step", "4"),
    *("--group_size", "3", "--max_new_tokens", "7", "--temperature", str(T), "--token_budget", "110"),
    *("--teacher_temperature", str(TAU), "--max_grad_norm", "0.5", "--lr", "0.01"),
]


class Run:
    def __init__(self) -> None:
        self.batches: list[list[Answers]] = []
        self.steps: list[Step] = []


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Student and teacher, of other weights."""
    folder = tmp_path_factory.mktemp("models")
    return save_tiny(folder / "student"), save_tiny(folder / "teacher", seed=1)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, models: tuple[Path, Path]):
    """A run of the command whose batches and optimizer steps are kept; a completion is right if it has 'e' in it."""
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rlhf.run.session.write_report", lambda path: path)
    verdict = lambda _self, _problem, text: Verdict(float("e" in text), 1.0, 0.0)  # noqa: E731
    monkeypatch.setattr(ProceduralTask, "verify", verdict)
    plain = batches.Sampler.batch

    def of(*extra: str, config: str = "on_policy", own_teacher: bool = False) -> Run:
        found = Run()

        def batch(self: batches.Sampler, step: int) -> list[Answers]:
            found.batches.append(plain(self, step))
            return found.batches[-1]

        monkeypatch.setattr(batches.Sampler, "batch", batch)
        found.steps = record_steps(monkeypatch, "distillation.update")
        teacher = [] if own_teacher else ["--teacher", str(models[1])]
        arguments = ["--config", config, "--model_name", str(models[0]), *teacher, *SETTINGS, *extra]
        train(read([*arguments, "--output_dir", str(tmp_path / "run")]))
        return found

    return of


def log_softmax(model: nn.Module, prompt: list[int], completion: list[int], temperature: float) -> Tensor:
    """log pi over the vocabulary at each token of a completion (t, v)."""
    logits = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
    return (logits.float() / temperature).log_softmax(-1)


def by_hand(answers: list[Answers], student: nn.Module, teacher: nn.Module | None, loss: Any) -> Tensor:
    """The mean over the counted tokens of a step of `loss(log pi, log q, tokens, log-probabilities of the sampler)`."""
    total, count = torch.zeros(()), 0
    for one in answers:
        for i, tokens in enumerate(one.group.completions):
            if one.group.loss_mask and not any(one.group.loss_mask[i]):
                continue
            log_pi = log_softmax(student, list(one.group.prompt), list(tokens), T)
            log_q = None
            if teacher is not None:
                with torch.no_grad():
                    log_q = log_softmax(teacher, one.teacher_prompts[i], list(tokens), T * TAU)
            total = total + loss(log_pi, log_q, torch.tensor(tokens), one.logp_sampler[i]).sum()
            count += len(tokens)
    return total / count


def token(logp: Tensor, tokens: Tensor) -> Tensor:
    return logp.gather(-1, tokens[:, None])[:, 0]


LOSSES = {
    "reverse_kl": lambda p, q, *_: reverse_kl(p, q),
    "forward_kl": lambda p, q, *_: forward_kl(p, q),
    "jsd": lambda p, q, *_: jsd(p, q, beta=0.3),
    "sampled_token": lambda p, q, y, logp: -(token(p, y) - logp).exp() * (token(q, y) - token(p, y)).detach(),
}


@pytest.mark.parametrize("objective", LOSSES)
def test_a_step_on_the_students_own_samples(run, models: tuple[Path, Path], objective: str) -> None:
    """Two optimizer steps a batch, so that the second finds weights that did not sample its tokens. T^2 in front."""
    beta = ["--jsd_beta", "0.3"] if objective == "jsd" else []
    found = run("--objective", objective, *beta, "--steps_per_batch", "2")
    teacher = load_policy(str(models[1]))
    assert len(found.steps) == 4
    for i, step in enumerate(found.steps):
        answers = found.batches[i // 2][i % 2 * 2 :][:2]
        assert all(one.sampled is not None for one in answers)
        student = step.at()
        check_gradient(step, student, T**2 * by_hand(answers, student, teacher, LOSSES[objective]))


def test_samples_are_the_students_at_the_temperature_that_is_scored(run) -> None:
    """The sampler's log-probabilities are those of softmax(logits / T) of the weights before the step."""
    found = run()
    student = found.steps[0].at()
    for one in found.batches[0]:
        for tokens, logp in zip(one.group.completions, one.logp_sampler, strict=True):
            scored = token(log_softmax(student, list(one.group.prompt), list(tokens), T), torch.tensor(tokens))
            torch.testing.assert_close(scored.detach(), logp, atol=1e-4, rtol=1e-4)


def test_a_step_over_the_teachers_top_k_without_the_square_of_the_temperature(run, models: tuple[Path, Path]) -> None:
    found = run("--objective", "forward_kl", "--teacher_top_k", "5", "--scale_by_temperature", "false")
    teacher = load_policy(str(models[1]))
    student = found.steps[0].at()
    loss = by_hand(found.batches[0], student, teacher, lambda p, q, *_: forward_kl(*top_k(p, q, k=5)))
    check_gradient(found.steps[0], student, loss)


def test_a_step_on_texts_of_the_teacher(run) -> None:
    """Sequence-level distillation is the mean negative log-likelihood, and no teacher scores anything."""
    found = run("--texts.problems", "5", "--scale_by_temperature", "false", config="offline")
    assert all(one.sampled is None and one.candidates is not None for one in found.batches[0])
    student = found.steps[0].at()
    loss = by_hand(found.batches[0], student, None, lambda p, _, y, *__: -token(p, y))
    check_gradient(found.steps[0], student, loss)


def test_a_step_on_a_mixture_of_own_samples_and_of_a_file(run, models: tuple[Path, Path], tmp_path: Path) -> None:
    """Tokens of both kinds count alike; what stands in a file before the answer does not."""
    file = tmp_path / "texts.jsonl"
    rows = [f'{{"prompt": "say {"x" * i}", "completion": "{"yz" * (i % 3 + 1)}"}}\n' for i in range(8)]
    file.write_text("".join(rows))
    found = run("--on_policy_share", "0.5", "--texts.path", str(file))
    own = [one.sampled is not None for batch in found.batches for one in batch]
    assert {*own} == {True, False}
    for record, batch in zip(read_records(tmp_path / "run" / "metrics.jsonl"), found.batches, strict=True):
        sampled = [one.group.completions for one in batch if one.sampled is not None]
        assert record["sampler/tokens"] == sum(len(tokens) for each in sampled for tokens in each)
    teacher = load_policy(str(models[1]))
    for step, batch in zip(found.steps, found.batches, strict=True):
        student = step.at()
        check_gradient(step, student, T**2 * by_hand(batch, student, teacher, LOSSES["reverse_kl"]))


@pytest.mark.parametrize("sees", ["attempt", "answer", "feedback"])
def test_a_step_of_self_distillation(run, sees: str) -> None:
    """The live teacher is the student as it is before the step, behind a prompt of its own for each completion. Where
    it has no attempt to see, the completion is not in the loss."""
    found = run("--teacher_sees", sees, "--teacher_moves", "live", "--objective", "reverse_kl", own_teacher=True)
    masks = [any(mask) for one in found.batches[0] for mask in one.group.loss_mask]
    assert {*masks} == ({True, False} if sees == "attempt" else {True})
    for step, batch in zip(found.steps, found.batches, strict=True):
        student = step.at()
        prompts = {tuple(prompt) for one in batch for prompt in one.teacher_prompts}
        assert prompts != {tuple(one.group.prompt) for one in batch}
        check_gradient(step, student, T**2 * by_hand(batch, student, step.at(), LOSSES["reverse_kl"]))


def test_a_following_teacher_is_a_running_mean(run) -> None:
    """After the first batch it has moved a quarter of the way: the second step is taken against that."""
    moves = ["--teacher_moves", "following", "--sync_teacher_mix", "0.25"]
    found = run(*moves, "--objective", "reverse_kl", config="self", own_teacher=True)
    first, second = found.steps
    teacher = first.at()
    moved = {name: torch.lerp(first.before[name], first.after[name], 0.25) for name in first.before}
    teacher.load_state_dict(moved, strict=False)  # the head is the embedding
    student = second.at()
    check_gradient(second, student, T**2 * by_hand(found.batches[1], student, teacher, LOSSES["reverse_kl"]))


def test_micro_batches_and_rows_change_no_step(run) -> None:
    """A small budget cuts a step into several micro-batches, and padded rows hold one completion each."""
    together = run("--token_budget", "4096")
    apart = run("--token_budget", "60", "--shared_prefix", "false", "--overwrite")
    assert norm_of(together.steps[0]) == pytest.approx(norm_of(apart.steps[0]), rel=1e-4)
    for name, gradient in together.steps[0].grad.items():
        torch.testing.assert_close(gradient, apart.steps[0].grad[name], atol=2e-5, rtol=1e-3)
