"""Token log-probabilities from hidden states, and sums over masked tokens.

Shapes: n sequences, t tokens, m selected tokens, d hidden size, v vocabulary.

    >>> x = torch.tensor([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0]])
    >>> mask = torch.tensor([[True, True, False], [False, False, False]])
    >>> masked_sum(x, mask)
    tensor([3., 0.])
    >>> masked_mean(x, mask)
    tensor([1.5000, 0.0000])
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# At most this many logits are held at a time (256 MB in fp32), whatever the size of the vocabulary.
LOGITS_AT_ONCE = 64 * 1024 * 1024


def token_logp(
    hidden: Float[Tensor, "m d"],
    head: Float[Tensor, "v d"],
    target: Int[Tensor, " m"],
    *,
    temperature: float = 1.0,
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """log softmax(hidden @ head.T / temperature) at `target`, and the entropy of that distribution, in nats.

    The logits of all tokens (m, v) would be the largest tensor of a training step, so they are computed in chunks, and
    again in the backward pass instead of being kept. Everything is fp32, whatever the precision of the backbone: at a
    value of 20, a logit rounded to bf16 is off by up to 0.06 nats, more than a policy moves in a step.

    A uniform distribution over 4 tokens has log-probabilities -log 4 and the entropy log 4:

        >>> logp, entropy = token_logp(torch.zeros(1, 8), torch.ones(4, 8), torch.tensor([2]))
        >>> logp, entropy
        (tensor([-1.3863]), tensor([1.3863]))

    Both are differentiable in `hidden` and `head`.
    """
    return _TokenLogp.apply(hidden.float(), head, target, temperature)


def in_fp32(a: Float[Tensor, "m k"], b: Float[Tensor, "k n"]) -> Float[Tensor, "m n"]:
    """a @ b of fp32 numbers `a`, as exact as in fp32, where `b` may be stored in bf16.

    On CUDA a product with a bf16 matrix runs on the tensor cores: `a` is the sum of two bf16 numbers up to 2^-17 of it,
    and both products are accumulated in fp32.
    """
    if b.dtype == torch.float32:
        return a @ b
    if not b.is_cuda:
        return a @ b.float()
    high = a.to(b.dtype)
    low = (a - high).to(b.dtype)
    return torch.mm(high, b, out_dtype=torch.float32) + torch.mm(low, b, out_dtype=torch.float32)


def vocabulary_logits(hidden: Float[Tensor, "m d"], head: Float[Tensor, "v d"]) -> Float[Tensor, "m v"]:
    """hidden @ head.T, differentiable in both, where the head may be stored in bf16; see `in_fp32`."""
    return _Logits.apply(hidden.float(), head)


class _Logits(torch.autograd.Function):
    """d logits / d hidden = head, d logits / d head = hidden."""

    @staticmethod
    def forward(ctx, hidden, head):
        ctx.save_for_backward(hidden, head)
        return in_fp32(hidden, head.T)

    @staticmethod
    def backward(ctx, *gradients):
        (grad,) = gradients
        hidden, head = ctx.saved_tensors
        grad_hidden = in_fp32(grad, head) if ctx.needs_input_grad[0] else None
        grad_head = (grad.T @ hidden).to(head.dtype) if ctx.needs_input_grad[1] else None
        return grad_hidden, grad_head


class _TokenLogp(torch.autograd.Function):
    """d logp / d logits = (onehot(target) - p) / temperature, p = softmax(logits)
    d entropy / d logits = -p (log p + entropy) / temperature
    """

    @staticmethod
    def forward(ctx, hidden, head, target, temperature):
        logp, entropy, log_z = (hidden.new_empty(len(target)) for _ in range(3))
        with torch.autocast(hidden.device.type, enabled=False):
            for part in chunks(len(target), len(head)):
                logits = in_fp32(hidden[part], head.T).div_(temperature)
                log_z[part] = logits.logsumexp(-1)
                logp[part] = logits.gather(-1, target[part, None]).squeeze(-1) - log_z[part]
                # H = log Z - E[logit]
                expected = torch.linalg.vecdot(torch.exp(logits - log_z[part, None]), logits)
                entropy[part] = log_z[part] - expected
        ctx.save_for_backward(hidden, head, target, log_z, entropy)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)  # None for the one of the two that the loss does not have
        return logp, entropy

    @staticmethod
    def backward(ctx, *gradients):
        grad_logp, grad_entropy = gradients
        hidden, head, target, log_z, entropy = ctx.saved_tensors
        grad_logp = torch.zeros_like(log_z) if grad_logp is None else grad_logp
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_head = torch.zeros_like(head, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        with torch.autocast(hidden.device.type, enabled=False):
            for part in chunks(len(target), len(head)):
                logits = in_fp32(hidden[part], head.T).div_(ctx.temperature)
                log_p = logits.sub_(log_z[part, None])
                of_entropy = None
                if grad_entropy is not None:
                    of_entropy = (log_p + entropy[part, None]) * log_p.exp() * (-grad_entropy[part, None])
                grad = log_p.exp_()  # softmax
                scale = grad_logp[part, None] / ctx.temperature
                grad.mul_(-scale).scatter_add_(-1, target[part, None], scale)
                if of_entropy is not None:
                    grad += of_entropy / ctx.temperature
                if grad_hidden is not None:
                    grad_hidden[part] = in_fp32(grad, head)
                if grad_head is not None:
                    grad_head.addmm_(grad.T, hidden[part])
        return grad_hidden, None if grad_head is None else grad_head.to(head.dtype), None, None


def chunks(tokens: int, vocabulary: int) -> list[slice]:
    """Slices of tokens, of which no one has more than LOGITS_AT_ONCE logits."""
    size = max(1, LOGITS_AT_ONCE // vocabulary)
    return [slice(start, start + size) for start in range(0, tokens, size)]


def masked_sum(x: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"]) -> Float[Tensor, " n"]:
    """Sum over the tokens in the mask. The others may hold anything, even inf or nan."""
    return torch.where(mask, x, 0.0).sum(-1)


def masked_mean(x: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"]) -> Float[Tensor, " n"]:
    """Mean over the tokens in the mask; 0 for a sequence without any."""
    return masked_sum(x, mask) / mask.sum(-1).clamp(min=1)
