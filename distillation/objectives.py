"""What a student minimizes, token by token, to become like its teacher. All objectives, side by side.

pi is the student's distribution over the vocabulary at a token of a completion, q the teacher's at the same token,
both at the same temperature; gradients reach pi alone.

    name           a token's loss                              direction
    forward_kl     KL(q || pi) = sum_v q log(q / pi)           covers: pi must be likely wherever q is
    reverse_kl     KL(pi || q) = sum_v pi log(pi / q)          seeks modes: pi must be unlikely wherever q is
    jsd            beta KL(q || m) + (1 - beta) KL(pi || m)    between them, m = beta q + (1 - beta) pi
    sampled_token  -ratio sg(log q(y) - log pi(y))             reverse KL, by the one token y that pi sampled
    sequence       -log pi(y)                                  forward KL of texts, by the one text that q wrote

Everything is in nats per token and reduces nothing but the vocabulary; the mean is over the counted tokens of a step.

Shapes: m tokens, v vocabulary, n completions, t tokens of the longest one.

    >>> pi, q = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[0.25, 0.5, 0.25]]).log()
    >>> forward_kl(pi, q), reverse_kl(pi, q)  # log(2) / 4 each, since pi and q are each other's mirror image
    (tensor([0.1733]), tensor([0.1733]))
    >>> jsd(pi, q, beta=0.5)
    tensor([0.0425])
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf.kl import MAX_LOG_RATIO

type Divergence = Callable[[Float[Tensor, "m v"], Float[Tensor, "m v"]], Float[Tensor, " m"]]


def forward_kl(log_pi: Float[Tensor, "m v"], log_q: Float[Tensor, "m v"]) -> Float[Tensor, " m"]:
    """KL(q || pi) = sum_v q (log q - log pi): how surprised the student would be by tokens of the teacher.

    Its gradient in the student's logits is pi - q. It is the word-level distillation of Hinton, Vinyals and Dean,
    "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531.
    """
    return torch.linalg.vecdot(log_q.exp(), log_q - log_pi)


def reverse_kl(log_pi: Float[Tensor, "m v"], log_q: Float[Tensor, "m v"]) -> Float[Tensor, " m"]:
    """KL(pi || q) = sum_v pi (log pi - log q): how surprised the teacher is by tokens of the student.

    Its gradient in the student's logits is pi (log(pi / q) - KL(pi || q)). It flows through pi at each token, and not
    through the sampling of the texts. Gu et al., "MiniLLM", 2023, arXiv 2306.08543; Agarwal et al., 2023, see `jsd`.
    """
    return torch.linalg.vecdot(log_pi.exp(), log_pi - log_q)


def jsd(log_pi: Float[Tensor, "m v"], log_q: Float[Tensor, "m v"], *, beta: float) -> Float[Tensor, " m"]:
    """beta KL(q || m) + (1 - beta) KL(pi || m), m = beta q + (1 - beta) pi: never more than log 2.

    Its gradient in the student's logits is (1 - beta) pi (log(pi / m) - KL(pi || m)). The generalized Jensen-Shannon
    divergence of Agarwal et al., "On-Policy Distillation of Language Models" (GKD), 2023, arXiv 2306.13649, eq. 1.

    Args:
        beta: the teacher's weight in m, in (0, 1). Divided by beta it becomes forward KL as beta goes to 0; divided by
            1 - beta it becomes reverse KL as beta goes to 1. (TRL takes these limits at 0 and 1 themselves.)
    """
    log_m = torch.logaddexp(log_q + math.log(beta), log_pi + math.log1p(-beta))
    return beta * forward_kl(log_m, log_q) + (1 - beta) * reverse_kl(log_pi, log_m)


def top_k(
    log_pi: Float[Tensor, "m v"], log_q: Float[Tensor, "m v"], *, k: int
) -> tuple[Float[Tensor, "m c"], Float[Tensor, "m c"]]:
    """Both distributions over c = k + 1 classes: the teacher's k likeliest tokens, and a bucket that holds all others.

    Merging tokens never raises a divergence (data processing), so each divergence of the result is a lower bound of the
    one over the whole vocabulary. It is the same if pi / q is one number for all tokens in the bucket.

    Args:
        k: less than v, so that the bucket is not empty.
    """
    index = log_q.topk(k).indices
    return _with_bucket(log_pi, index), _with_bucket(log_q, index)


def _with_bucket(logp: Float[Tensor, "m v"], index: Tensor) -> Float[Tensor, "m c"]:
    rest = logp.scatter(-1, index, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logp.gather(-1, index), rest], -1)


def sampled_token(
    logp: Float[Tensor, "n t"], logp_sampler: Float[Tensor, "n t"], logp_teacher: Float[Tensor, "n t"]
) -> Float[Tensor, "n t"]:
    """-ratio adv: ratio = pi(y) / pi_sampler(y), adv = log q(y) - log pi(y) without gradient, y sampled by the student.

    The expectation of its gradient over y is that of the reverse KL; its value is not (on-policy it is -adv).
    The advantage must depend on the token: one that is the same for every y has an expected gradient of 0.
    Lu and Thinking Machines Lab, "On-Policy Distillation", 2025, thinkingmachines.ai/blog/on-policy-distillation.

    Args:
        logp_sampler: of the policy as it sampled y, at the same temperature as the other two.
    """
    log_ratio = (logp - logp_sampler).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return -log_ratio.exp() * (logp_teacher - logp).detach()


def sequence(logp: Float[Tensor, "n t"]) -> Float[Tensor, "n t"]:
    """-log pi(y), y written by the teacher: the likelihood of its texts.

    Kim and Rush, "Sequence-Level Knowledge Distillation", 2016, arXiv 1606.07947, with samples in place of the beam's
    best text. In expectation it is KL(q || pi) of whole texts, plus the entropy of the teacher.
    """
    return -logp


def divergence_of(objective: str, *, beta: float, k: int | None) -> Divergence:
    """The divergence that an objective minimizes; the reverse KL for those that take one token of it."""
    plain: dict[str, Divergence] = {"forward_kl": forward_kl, "jsd": partial(jsd, beta=beta)}
    divergence = plain.get(objective, reverse_kl)
    if k is None:
        return divergence
    return lambda log_pi, log_q: divergence(*top_k(log_pi, log_q, k=k))
