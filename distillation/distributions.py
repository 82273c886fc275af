"""Student and teacher compared over the whole vocabulary, from their hidden states, a chunk of tokens at a time.

The logits of all tokens of both models would be the largest tensors of a step. They are computed in chunks, and again
in the backward pass, so that no tensor (m, v) outlives its chunk. Gradients reach the student's states and its head.

Shapes: m tokens, d and e hidden sizes of student and teacher, v vocabulary.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from distillation.objectives import Divergence, forward_kl, reverse_kl
from rlhf.tensors import chunks, vocabulary_logits

AT_ONCE = 4  # tensors of a chunk's logits that are there at once, two models' and their products


class Compared(NamedTuple):
    """What there is to know of each token, in nats."""

    logp: Float[Tensor, "*n"]  # of the token that stands there, under the student
    logp_teacher: Float[Tensor, "*n"]  # the same under the teacher, without gradient
    divergence: Float[Tensor, "*n"]  # the objective's
    reverse_kl: Float[Tensor, "*n"]  # of the whole vocabulary, without gradient: diagnostics
    forward_kl: Float[Tensor, "*n"]
    entropy: Float[Tensor, "*n"]  # of the student, likewise


class TeacherStates(NamedTuple):
    """The teacher's side: hidden states, the head that makes logits of them, and the temperature of the teacher."""

    hidden: Float[Tensor, "... e"]
    head: Float[Tensor, "w e"]
    temperature: float


def compare(
    hidden: Float[Tensor, "m d"],
    head: Float[Tensor, "v d"],
    target: Int[Tensor, " m"],
    teacher: TeacherStates,
    *,
    divergence: Divergence,
    temperature: float,
) -> Compared:
    """Compare the student's softmax(hidden @ head.T / T) with the teacher's, at the same T, everything in fp32.

    Args:
        target: the token that stands there.
        teacher: its head may have more rows than the student's, for no token of the tokenizer; they are left out.
            Its own temperature sharpens it: q is in proportion to q^(1 / teacher.temperature), before T.
        temperature: T, of both sides.
    """
    teacher_head = teacher.head[: len(head)]
    if head.requires_grad:
        head = head.float()  # gradients of the chunks add up in fp32, where low_memory stores the head in bf16

    def of(states: Tensor, target: Tensor, teacher_states: Tensor, head: Tensor) -> Compared:
        with torch.autocast(states.device.type, enabled=False):
            log_pi = (vocabulary_logits(states, head) / temperature).log_softmax(-1)
            with torch.no_grad():
                logits = vocabulary_logits(teacher_states, teacher_head)
                log_q = (logits / (teacher.temperature * temperature)).log_softmax(-1)
                plain = log_pi.detach()
                of_both = reverse_kl(plain, log_q), forward_kl(plain, log_q)
                entropy = -torch.linalg.vecdot(plain.exp(), plain)
            at = target[:, None]
            logp, logp_teacher = (logp.gather(-1, at).squeeze(-1) for logp in (log_pi, log_q))
            return Compared(logp, logp_teacher, divergence(log_pi, log_q), *of_both, entropy)

    parts = [
        checkpoint(
            of, hidden[part], target[part], teacher.hidden[part], head, use_reentrant=False, preserve_rng_state=False
        )
        for part in chunks(len(target), AT_ONCE * len(head))
    ]
    if not parts:
        return Compared(*[hidden.sum(-1)] * len(Compared._fields))  # (0,), of the graph
    return Compared(*map(torch.cat, zip(*parts, strict=True)))
