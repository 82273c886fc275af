"""Objectives against gradients derived by hand, exact expectations over enumerable policies, and TRL.

Derivations, for logits z of the student with pi = softmax(z), so d pi_i / d z_j = pi_i (1[i = j] - pi_j) and
d log pi_i / d z_j = 1[i = j] - pi_j. A loss D whose derivative in pi_i is g_i therefore has the gradient
pi_j (g_j - sum_i pi_i g_i) in z_j: a constant that is added to all g_i drops out.

- KL(q || pi) = sum q (log q - log pi): g_i = -q_i / pi_i, sum pi g = -1, so the gradient is pi_j - q_j.
- KL(pi || q) = sum pi (log pi - log q): g_i = log(pi_i / q_i) + 1, so it is pi_j (log(pi_j / q_j) - KL(pi || q)).
- JSD = b sum q log(q / m) + c sum pi log(pi / m), m = b q + c pi, c = 1 - b. The derivative of m_i is c, so
  g_i = -b c q_i / m_i + c (log(pi_i / m_i) + 1) - c^2 pi_i / m_i = c (log(pi_i / m_i) + 1) - c (b q_i + c pi_i) / m_i
      = c log(pi_i / m_i),
  and the gradient is c pi_j (log(pi_j / m_j) - KL(pi || m)).
- sampled token: the gradient of -(pi(y) / mu(y)) A(y) is -(pi(y) / mu(y)) A(y) d log pi(y), A without gradient. Its
  expectation over y from mu is -sum_y pi_y A_y (1[y = j] - pi_j) = -pi_j (A_j - sum pi A), which with A = log(q / pi)
  is the gradient of KL(pi || q), whatever mu is. With A the same for all y it is 0.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distillation.objectives import divergence_of, forward_kl, jsd, reverse_kl, sampled_token, sequence, top_k

V = 7
Function = Callable[[Tensor, Tensor], Tensor]
DIVERGENCES: dict[str, Function] = {
    "forward": forward_kl,
    "reverse": reverse_kl,
    "jsd 0.3": lambda p, q: jsd(p, q, beta=0.3),
    "jsd 0.9": lambda p, q: jsd(p, q, beta=0.9),
}


def logits(seed: int, *shape: int) -> Tensor:
    """Far apart: standard deviation 2."""
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    z = z.clone().requires_grad_()
    (found,) = torch.autograd.grad(function(z).sum(), z)
    return found


@pytest.fixture
def student() -> Tensor:
    return logits(0, 5, V)


@pytest.fixture
def log_q() -> Tensor:
    return logits(1, 5, V).log_softmax(-1)


# ------------------------------------------------------------------------------------------------ values and directions


def test_values_by_hand() -> None:
    """pi = (1/2, 1/2), q = (9/10, 1/10): KL(q || pi) = 0.9 log 1.8 + 0.1 log 0.2 = 0.3681, and
    KL(pi || q) = log(0.5 / 0.9) / 2 + log(0.5 / 0.1) / 2 = 0.5108. With beta 1/4 m = (0.6, 0.4), and the JSD is
    (0.9 log 1.5 + 0.1 log 0.25) / 4 + 3/4 (log(5/6) + log(5/4)) / 2 = 0.0719."""
    pi, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
    assert float(forward_kl(pi, q)) == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2))
    assert float(reverse_kl(pi, q)) == pytest.approx(math.log(5 / 9) / 2 + math.log(5) / 2)
    by_hand = (0.9 * math.log(1.5) + 0.1 * math.log(0.25)) / 4 + 0.75 * (math.log(5 / 6) + math.log(5 / 4)) / 2
    assert float(jsd(pi, q, beta=0.25)) == pytest.approx(by_hand, rel=1e-5)


def test_forward_kl_covers_and_reverse_kl_seeks_modes() -> None:
    """The teacher has two modes. A student on one of them is better by reverse KL than one on everything, and worse by
    forward KL."""
    q = torch.tensor([[0.49, 0.02, 0.49]]).log()
    one, all_alike = torch.tensor([[0.96, 0.02, 0.02]]).log(), torch.tensor([[1 / 3, 1 / 3, 1 / 3]]).log()
    assert reverse_kl(one, q) < reverse_kl(all_alike, q)
    assert forward_kl(one, q) > forward_kl(all_alike, q)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergences_are_positive_and_zero_at_the_teacher(name: str, student: Tensor, log_q: Tensor) -> None:
    assert (DIVERGENCES[name](student.log_softmax(-1), log_q) > 0.01).all()
    assert DIVERGENCES[name](log_q, log_q).abs().max() < 1e-12


def test_jsd_is_bounded_by_log_2_and_has_both_kls_as_limits(student: Tensor, log_q: Tensor) -> None:
    pi = student.log_softmax(-1)
    far = torch.tensor([[0.0, -60.0]]).log_softmax(-1), torch.tensor([[-60.0, 0.0]]).log_softmax(-1)
    assert float(jsd(*far, beta=0.5)) == pytest.approx(math.log(2), rel=1e-5)
    torch.testing.assert_close(jsd(pi, log_q, beta=1e-5) / 1e-5, forward_kl(pi, log_q), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(jsd(pi, log_q, beta=1 - 1e-5) / 1e-5, reverse_kl(pi, log_q), rtol=2e-2, atol=1e-3)


# -------------------------------------------------------------------------------------------------------- the gradients


def test_gradient_of_forward_kl(student: Tensor, log_q: Tensor) -> None:
    found = gradient(lambda z: forward_kl(z.log_softmax(-1), log_q), student)
    torch.testing.assert_close(found, student.softmax(-1) - log_q.exp())


def test_gradient_of_reverse_kl(student: Tensor, log_q: Tensor) -> None:
    found = gradient(lambda z: reverse_kl(z.log_softmax(-1), log_q), student)
    torch.testing.assert_close(found, gradient_of_reverse_kl(student, log_q))


def gradient_of_reverse_kl(z: Tensor, log_q: Tensor) -> Tensor:
    gap = z.log_softmax(-1) - log_q
    return z.softmax(-1) * (gap - (z.softmax(-1) * gap).sum(-1, keepdim=True))


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.8])
def test_gradient_of_jsd(student: Tensor, log_q: Tensor, beta: float) -> None:
    found = gradient(lambda z: jsd(z.log_softmax(-1), log_q, beta=beta), student)
    pi = student.softmax(-1)
    gap = (pi / (beta * log_q.exp() + (1 - beta) * pi)).log()
    torch.testing.assert_close(found, (1 - beta) * pi * (gap - (pi * gap).sum(-1, keepdim=True)))


def expected_gradient(loss: Callable[[Tensor, Tensor, Tensor], Tensor], z: Tensor, log_mu: Tensor) -> Tensor:
    """sum_y mu(y) d loss(logp(y), log mu(y), y) / d z, over every token y: exact."""

    def expectation(z: Tensor) -> Tensor:
        y = torch.arange(V).expand_as(z)
        return (log_mu.exp() * loss(z.log_softmax(-1), log_mu, y)).sum()

    return gradient(expectation, z)


@pytest.mark.parametrize("sampler", ["the student", "another policy"])
def test_sampled_token_has_the_gradient_of_reverse_kl_in_expectation(
    student: Tensor, log_q: Tensor, sampler: str
) -> None:
    log_mu = student.log_softmax(-1) if sampler == "the student" else logits(2, 5, V).log_softmax(-1)
    found = expected_gradient(lambda logp, mu, _: sampled_token(logp, mu, log_q), student, log_mu)
    torch.testing.assert_close(found, gradient_of_reverse_kl(student, log_q))


def test_an_advantage_that_is_the_same_for_every_token_has_no_expected_gradient(student: Tensor, log_q: Tensor) -> None:
    """The KL of the state in place of log q(y) - log pi(y): it looks like a distillation loss and teaches nothing."""
    log_mu = student.log_softmax(-1)
    constant = -reverse_kl(log_mu, log_q)[:, None].expand_as(log_mu)
    found = expected_gradient(lambda logp, mu, _: sampled_token(logp, mu, logp.detach() + constant), student, log_mu)
    assert found.abs().max() < 1e-12
    assert expected_gradient(lambda logp, mu, _: sampled_token(logp, mu, log_q), student, log_mu).abs().max() > 0.1


def test_sampled_token_survives_a_policy_that_is_far_away() -> None:
    logp = torch.tensor([[-0.1, -100.0]], requires_grad=True)
    loss = sampled_token(logp, torch.tensor([[-200.0, -0.1]]), torch.tensor([[-1.0, -1.0]]))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert logp.grad is not None
    assert torch.isfinite(logp.grad).all()


def test_sequence_has_the_gradient_of_the_kl_of_whole_texts() -> None:
    """Texts of two tokens, enumerated: log pi(ab) = log pi(a) + log pi(b | a). The expectation over texts of the
    teacher of the gradient of -log pi(ab) is that of KL(q || pi) = sum_ab q(ab) log(q(ab) / pi(ab)), and so for each
    state: at the first token pi - q, and after a the same, times q(a)."""
    first, second = logits(3, V), logits(4, V, V)  # the student's
    q_first, q_second = logits(5, V).softmax(-1), logits(6, V, V).softmax(-1)

    def expectation(z: Tensor) -> Tensor:
        log_first, log_second = z[0].log_softmax(-1), z[1:].log_softmax(-1)
        texts = torch.stack([log_first[:, None].expand(V, V), log_second], -1).reshape(V * V, 2)
        return ((q_first[:, None] * q_second).reshape(V * V, 1) * sequence(texts)).sum()

    found = gradient(expectation, torch.cat([first[None], second]))
    torch.testing.assert_close(found[0], first.softmax(-1) - q_first)
    torch.testing.assert_close(found[1:], q_first[:, None] * (second.softmax(-1) - q_second))


# ---------------------------------------------------------------------------------------------------------------- top-k


@pytest.mark.parametrize("name", DIVERGENCES)
def test_top_k_is_a_lower_bound_that_rises_to_the_whole(name: str, student: Tensor, log_q: Tensor) -> None:
    pi, divergence = student.log_softmax(-1), DIVERGENCES[name]
    by_k = torch.stack([divergence(*top_k(pi, log_q, k=k)) for k in range(1, V)])
    assert (by_k.diff(dim=0) >= -1e-12).all()
    torch.testing.assert_close(by_k[-1], divergence(pi, log_q))  # a bucket of one token is that token
    assert (by_k[0] < divergence(pi, log_q) - 1e-3).all()


def test_top_k_takes_the_teachers_tokens_and_adds_up_to_one(student: Tensor, log_q: Tensor) -> None:
    """pi = (0.1, 0.2, 0.7), q = (0.5, 0.3, 0.2), k = 2: (0.1, 0.2, 0.7) and (0.5, 0.3, 0.2); k = 1: the teacher's
    likeliest is the first, so (0.1, 0.9) and (0.5, 0.5)."""
    pi, q = torch.tensor([[0.1, 0.2, 0.7]]).log(), torch.tensor([[0.5, 0.3, 0.2]]).log()
    kept_pi, kept_q = top_k(pi, q, k=1)
    torch.testing.assert_close(kept_pi.exp(), torch.tensor([[0.1, 0.9]]))
    torch.testing.assert_close(kept_q.exp(), torch.tensor([[0.5, 0.5]]))
    for part in top_k(student.log_softmax(-1), log_q, k=3):
        torch.testing.assert_close(part.exp().sum(-1), torch.ones(5, dtype=torch.float64))


def test_gradient_of_top_k_leaves_the_shares_within_the_bucket(student: Tensor, log_q: Tensor) -> None:
    """Forward KL over a and the bucket: in the logit of a token j of the bucket the gradient is
    pi_j (1 - q(bucket) / pi(bucket)), in proportion to pi_j; in that of a it is pi_a - q_a."""
    found = gradient(lambda z: forward_kl(*top_k(z.log_softmax(-1), log_q, k=1)), student)
    pi, q = student.softmax(-1), log_q.exp()
    best = q.argmax(-1, keepdim=True)
    pi_a, q_a = pi.gather(-1, best), q.gather(-1, best)
    expected = (pi * (1 - (1 - q_a) / (1 - pi_a))).scatter(-1, best, pi_a - q_a)
    torch.testing.assert_close(found, expected)


def test_objective_by_name(student: Tensor, log_q: Tensor) -> None:
    pi = student.log_softmax(-1)
    for name, function in (("forward_kl", forward_kl), ("reverse_kl", reverse_kl), ("sampled_token", reverse_kl)):
        torch.testing.assert_close(divergence_of(name, beta=0.3, k=None)(pi, log_q), function(pi, log_q))
    torch.testing.assert_close(divergence_of("jsd", beta=0.3, k=None)(pi, log_q), jsd(pi, log_q, beta=0.3))
    bounded = divergence_of("forward_kl", beta=0.3, k=2)(pi, log_q)
    torch.testing.assert_close(bounded, forward_kl(*top_k(pi, log_q, k=2)))


# ------------------------------------------------------------------------------------------------------------------ TRL


@pytest.mark.filterwarnings("ignore::UserWarning")  # that it is experimental
@pytest.mark.parametrize("beta", [0.0, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_parity_with_the_loss_of_trl(beta: float, temperature: float) -> None:
    """TRL's `generalized_jsd_loss` has the same beta, the teacher's weight in the mixture. At 0 and 1 it takes forward
    and reverse KL, the limits divided by beta and 1 - beta. It puts no temperature^2 in front."""
    GKDTrainer = pytest.importorskip("trl.experimental.gkd").GKDTrainer

    z, teacher = logits(7, 2, 4, V), logits(8, 2, 4, V)
    labels = torch.tensor([[1, 2, 3, -100], [4, -100, -100, -100]])

    def trl(z: Tensor) -> Tensor:
        return GKDTrainer.generalized_jsd_loss(z, teacher, labels, beta=beta, temperature=temperature)

    ends: dict[float, Function] = {0.0: forward_kl, 1.0: reverse_kl}
    divergence = ends.get(beta, lambda p, q: jsd(p, q, beta=beta))

    def ours(z: Tensor) -> Tensor:
        mask = labels != -100
        log_pi, log_q = ((x / temperature).log_softmax(-1)[mask] for x in (z, teacher))
        return divergence(log_pi, log_q).sum() / mask.sum()

    torch.testing.assert_close(trl(z), ours(z), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(gradient(trl, z), gradient(ours, z), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_parity_with_the_self_distillation_of_trl(student: Tensor, log_q: Tensor, alpha: float) -> None:
    """Its divergence is the same. Its bucket is made of log(1 - sum p), and its k tokens are the student's likeliest,
    where ours are the teacher's: with the roles exchanged they are the same."""
    loss_utils = pytest.importorskip("trl.experimental.sdpo.loss_utils")
    ends: dict[float, Function] = {0.0: forward_kl, 1.0: reverse_kl}
    divergence = ends.get(alpha, lambda p, q: jsd(p, q, beta=alpha))
    pi = student.log_softmax(-1)
    torch.testing.assert_close(loss_utils.compute_divergence(pi, log_q, alpha), divergence(pi, log_q))
    theirs = loss_utils.compute_topk_self_distillation_loss(
        log_q, pi, distillation_topk=3, distillation_alpha=alpha, distillation_add_tail=True
    )
    exchanged: dict[float, Function] = {0.0: reverse_kl, 1.0: forward_kl}
    mirror = exchanged.get(alpha, lambda p, q: jsd(p, q, beta=1 - alpha))
    torch.testing.assert_close(theirs, mirror(*top_k(pi, log_q, k=3)))


def test_parity_with_the_sampled_token_of_trl(student: Tensor) -> None:
    """Value log(pi / q) log pi there, and -ratio log(q / pi) here: the gradient is the same on-policy."""
    loss_utils = pytest.importorskip("trl.experimental.sdpo.loss_utils")
    teacher, y = logits(9, 5, V), torch.tensor([0, 3, 6, 1, 2])

    def ours(z: Tensor) -> Tensor:
        logp, logp_teacher = (x.log_softmax(-1).gather(-1, y[:, None]) for x in (z, teacher))
        return sampled_token(logp, logp.detach(), logp_teacher)

    def trl(z: Tensor) -> Tensor:
        return loss_utils.compute_sampled_token_self_distillation_loss(
            z[None], teacher[None], y[None], distillation_alpha=1.0
        )

    torch.testing.assert_close(gradient(ours, student), gradient(trl, student))
