"""Log-probabilities in chunks against the formula written out in fp64, and sums that see only what counts."""

import math

import pytest
import torch
from torch import Tensor

from rlhf import tensors
from rlhf.tensors import chunks, masked_mean, masked_sum, token_logp, vocabulary_logits

TOKENS, WIDTH, VOCABULARY = 37, 16, 50


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden, head, target, and a weight for each token's log-probability in a loss. Logits have a std of 2."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator) / 2
    head = torch.randn(VOCABULARY, WIDTH, generator=generator)
    target = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    return hidden, head, target, torch.randn(TOKENS, generator=generator)


def naive(hidden: Tensor, head: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """log softmax(h W^T / T) at the target, and -sum p log p."""
    logp = (hidden @ head.T / temperature).log_softmax(-1)
    return logp.gather(-1, target[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
@pytest.mark.parametrize("logits_at_once", [10**6, 7 * VOCABULARY, 1])
@pytest.mark.parametrize("of_both", [(1, 0), (0, 1), (0.3, -0.7)])
def test_equals_the_naive_formula_with_gradients(
    batch, monkeypatch, temperature: float, logits_at_once: int, of_both: tuple[float, float]
) -> None:
    """In one chunk, in chunks of 7 (37 = 5 * 7 + 2), token by token; a loss of log-probabilities, entropies, both."""
    monkeypatch.setattr(tensors, "LOGITS_AT_ONCE", logits_at_once)
    hidden, head, target, weight = batch

    def loss(logp: Tensor, entropy: Tensor) -> Tensor:
        return sum((part * x * weight).sum() for part, x in zip(of_both, (logp, entropy), strict=True) if part)

    h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
    logp, entropy = token_logp(h, w, target, temperature=temperature)
    loss(logp, entropy).backward()

    h64, w64 = hidden.double().requires_grad_(), head.double().requires_grad_()
    logp64, entropy64 = naive(h64, w64, target, temperature)
    loss(logp64, entropy64).backward()

    for ours, exact in ((logp, logp64), (entropy, entropy64), (h.grad, h64.grad), (w.grad, w64.grad)):
        torch.testing.assert_close(ours.double(), exact.detach(), atol=3e-5 if of_both[1] else 1e-5, rtol=1e-5)


def test_entropy_by_hand() -> None:
    """Equal logits: ln v. Logits (0, ln 3): p = (1/4, 3/4), H = 1/4 ln 4 + 3/4 ln(4/3). At T = 1/2, p = (1, 9)/10."""
    head = torch.tensor([[0.0], [math.log(3)]])
    target = torch.tensor([0])
    uniform = token_logp(torch.zeros(1, 1), head, target)[1].item()
    warm = token_logp(torch.ones(1, 1), head, target)[1].item()
    cold = token_logp(torch.ones(1, 1), head, target, temperature=0.5)[1].item()
    assert uniform == pytest.approx(math.log(2))
    assert warm == pytest.approx(math.log(4) / 4 + math.log(4 / 3) * 3 / 4)
    assert cold == pytest.approx(math.log(10) / 10 + math.log(10 / 9) * 9 / 10)


def test_gradient_of_one_input_alone(batch) -> None:
    """A frozen head, and a frozen backbone."""
    hidden, head, target, _ = batch
    h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
    both = torch.autograd.grad(token_logp(h, w, target)[0].sum(), (h, w))
    (of_hidden,) = torch.autograd.grad(token_logp(h, head, target)[0].sum(), h)
    (of_head,) = torch.autograd.grad(token_logp(hidden, w, target)[0].sum(), w)
    assert torch.equal(of_hidden, both[0])
    assert torch.equal(of_head, both[1])


def test_logits_with_gradients(batch) -> None:
    """z = h W^T, dL/dh = G W and dL/dW = G^T h, for a loss sum G z; a head that is stored in bf16 gets none."""
    hidden, head, _, _ = batch
    h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
    weight = torch.randn(TOKENS, VOCABULARY, generator=torch.Generator().manual_seed(1))
    logits = vocabulary_logits(h, w)
    torch.testing.assert_close(logits, hidden @ head.T)
    of_hidden, of_head = torch.autograd.grad((weight * logits).sum(), (h, w))
    torch.testing.assert_close(of_hidden, weight @ head)
    torch.testing.assert_close(of_head, weight.T @ hidden)
    stored = head.to(torch.bfloat16)
    (of_hidden,) = torch.autograd.grad((weight * vocabulary_logits(h, stored)).sum(), h)
    torch.testing.assert_close(of_hidden, weight @ stored.float())


@pytest.mark.parametrize(("tokens", "at_once", "sizes"), [(7, 30, [3, 3, 1]), (7, 9, [1] * 7), (0, 30, [])])
def test_chunks_hold_few_enough_logits(monkeypatch, tokens: int, at_once: int, sizes: list[int]) -> None:
    monkeypatch.setattr("rlhf.tensors.LOGITS_AT_ONCE", at_once)
    assert [len(range(tokens)[part]) for part in chunks(tokens, 10)] == sizes


def test_fp32_under_autocast(batch) -> None:
    """From a bf16 backbone, only the hidden states are rounded: logits of 20 in bf16 would be off by up to 0.06."""
    hidden, head, target, weight = batch
    rounded = (4 * hidden).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        logp, entropy = token_logp(rounded, head, target, temperature=0.7)
        (logp * weight).sum().backward()
    exact = rounded.detach().double().requires_grad_()
    logp64, entropy64 = naive(exact, head.double(), target, 0.7)
    (logp64 * weight).sum().backward()
    assert logp.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logp.double(), logp64.detach(), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(entropy.double(), entropy64.detach(), atol=1e-3, rtol=0)  # a diagnostic
    torch.testing.assert_close(rounded.grad.double(), exact.grad, atol=2e-2, rtol=1e-2)  # handed back in bf16


def test_extreme_logits_and_no_tokens(batch) -> None:
    hidden, head, target, _ = batch
    h = (1000 * hidden).requires_grad_()
    logp, entropy = token_logp(h, head, target)
    logp.sum().backward()
    assert torch.isfinite(logp).all()
    assert torch.isfinite(entropy).all()
    assert torch.isfinite(h.grad).all()
    none = torch.zeros(0, WIDTH, requires_grad=True)
    logp, _ = token_logp(none, head, target[:0])
    logp.sum().backward()
    assert logp.shape == (0,)
    assert none.grad.shape == (0, WIDTH)


def test_masked_sum_and_mean_by_hand() -> None:
    """Rows (1 + 2, 4, nothing): sums 3, 4, 0; means 3/2, 4, 0. Behind the mask there may be anything."""
    nan, inf = float("nan"), float("inf")
    x = torch.tensor([[1.0, 2.0, inf], [nan, 4.0, -inf], [nan, inf, 7.0]], requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0]]).bool()
    assert masked_sum(x, mask).tolist() == [3, 4, 0]
    assert masked_mean(x, mask).tolist() == [1.5, 4, 0]
    masked_sum(x, mask).sum().backward()
    assert torch.equal(x.grad, mask.float())
    x.grad = None
    masked_mean(x, mask).sum().backward()
    assert x.grad.tolist() == [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 0]]
