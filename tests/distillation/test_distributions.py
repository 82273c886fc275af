"""The comparison of two vocabularies in chunks against the same sums over whole tensors."""

import pytest
import torch
from torch import Tensor

from distillation.distributions import AT_ONCE, Compared, TeacherStates, compare
from distillation.objectives import Divergence, forward_kl, jsd, reverse_kl
from rlhf import tensors

M, D, E, V = 11, 6, 4, 9


@pytest.fixture
def numbers() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = {"hidden": (M, D), "head": (V, D), "teacher_hidden": (M, E), "teacher_head": (V + 2, E)}
    found = {name: torch.randn(*size, generator=generator) for name, size in sizes.items()}
    return found | {"target": torch.randint(0, V, (M,), generator=generator)}


def compared(
    numbers: dict[str, Tensor], divergence: Divergence, temperature: float = 1.0, teacher_temperature: float = 1.0
) -> Compared:
    teacher = TeacherStates(numbers["teacher_hidden"], numbers["teacher_head"], teacher_temperature)
    return compare(
        numbers["hidden"],
        numbers["head"],
        numbers["target"],
        teacher,
        divergence=divergence,
        temperature=temperature,
    )


@pytest.mark.parametrize(("temperature", "teacher_temperature"), [(1.0, 1.0), (2.0, 1.0), (1.0, 0.3), (0.7, 0.5)])
def test_both_sides_are_at_one_temperature_and_the_teacher_is_sharpened_before(
    numbers: dict[str, Tensor], temperature: float, teacher_temperature: float
) -> None:
    """pi = softmax(z / T); q is in proportion to (q_1^(1/tau))^(1/T), which is softmax(u / (tau T)). The head's rows 9
    and 10 of the teacher are of no token: they are left out before the softmax."""
    found = compared(numbers, reverse_kl, temperature, teacher_temperature)
    log_pi = (numbers["hidden"] @ numbers["head"].T / temperature).log_softmax(-1)
    q = (numbers["teacher_hidden"] @ numbers["teacher_head"][:V].T).softmax(-1)
    log_q = (q ** (1 / teacher_temperature / temperature)).log()
    log_q = log_q - log_q.logsumexp(-1, keepdim=True)
    at = numbers["target"][:, None]
    torch.testing.assert_close(found.logp, log_pi.gather(-1, at)[:, 0])
    torch.testing.assert_close(found.logp_teacher, log_q.gather(-1, at)[:, 0])
    torch.testing.assert_close(found.reverse_kl, reverse_kl(log_pi, log_q))
    torch.testing.assert_close(found.forward_kl, forward_kl(log_pi, log_q))
    torch.testing.assert_close(found.divergence, found.reverse_kl)
    torch.testing.assert_close(found.entropy, -(log_pi.exp() * log_pi).sum(-1))


def gradients(numbers: dict[str, Tensor]) -> list[Tensor]:
    """Of a weighted sum of the divergences and of the log-probabilities, in the student's states and head."""
    inputs = [numbers[name].clone().requires_grad_() for name in ("hidden", "head")]
    weight = torch.arange(M, dtype=torch.float32)
    found = compared(
        numbers | {"hidden": inputs[0], "head": inputs[1]}, lambda p, q: jsd(p, q, beta=0.3), temperature=0.7
    )
    return list(torch.autograd.grad((weight * found.divergence - found.logp).sum(), inputs))


def test_chunks_change_neither_values_nor_gradients(numbers: dict[str, Tensor], monkeypatch) -> None:
    whole, whole_gradients = compared(numbers, forward_kl), gradients(numbers)
    monkeypatch.setattr(tensors, "LOGITS_AT_ONCE", AT_ONCE * V * 3)
    assert len(tensors.chunks(M, AT_ONCE * V)) == 4
    for cut, one in zip(compared(numbers, forward_kl), whole, strict=True):
        torch.testing.assert_close(cut, one)
    for cut, one in zip(gradients(numbers), whole_gradients, strict=True):
        torch.testing.assert_close(cut, one)


def test_gradient_is_that_of_the_whole_tensors(numbers: dict[str, Tensor]) -> None:
    """In plain autograd, with no chunks and nothing recomputed."""
    hidden, head = (numbers[name].clone().requires_grad_() for name in ("hidden", "head"))
    log_pi = (hidden @ head.T / 0.7).log_softmax(-1)
    log_q = (numbers["teacher_hidden"] @ numbers["teacher_head"][:V].T / 0.7).log_softmax(-1)
    loss = (torch.arange(M) * jsd(log_pi, log_q, beta=0.3)).sum() - log_pi.gather(-1, numbers["target"][:, None]).sum()
    for found, wanted in zip(gradients(numbers), torch.autograd.grad(loss, [hidden, head]), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_gradients_of_chunks_add_up_in_fp32(numbers: dict[str, Tensor], monkeypatch) -> None:
    """A head that is trained in bf16 gets the sum rounded once, whatever the chunks."""

    def gradient() -> Tensor:
        head = numbers["head"].to(torch.bfloat16).requires_grad_()
        compared(numbers | {"head": head}, forward_kl).divergence.sum().backward()
        assert head.grad is not None
        return head.grad

    whole = gradient()
    monkeypatch.setattr(tensors, "LOGITS_AT_ONCE", 1)  # a token a chunk
    assert whole.dtype == torch.bfloat16
    assert torch.equal(gradient(), whole)


def test_nothing_as_large_as_the_logits_is_kept(numbers: dict[str, Tensor], monkeypatch) -> None:
    monkeypatch.setattr(tensors, "LOGITS_AT_ONCE", AT_ONCE * V * 3)
    hidden = numbers["hidden"].clone().requires_grad_()
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        compared(numbers | {"hidden": hidden}, reverse_kl).divergence.sum()
    assert max(kept, default=0) < M * V


def test_the_teacher_gets_no_gradient(numbers: dict[str, Tensor]) -> None:
    """A live teacher is the student itself: only the student's side of the divergence moves it."""
    own = {name: numbers[name].clone().requires_grad_() for name in ("hidden", "teacher_hidden", "teacher_head")}
    found = compared(numbers | own, reverse_kl)
    (found.divergence.sum() + found.logp_teacher.sum()).backward()
    assert own["hidden"].grad is not None
    assert own["teacher_hidden"].grad is None
    assert own["teacher_head"].grad is None


def test_no_tokens(numbers: dict[str, Tensor]) -> None:
    none = numbers | {name: numbers[name][:0] for name in ("hidden", "teacher_hidden", "target")}
    assert all(measure.shape == (0,) for measure in compared(none, reverse_kl))
