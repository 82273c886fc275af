"""Examples to micro-batches, and micro-batches to what a loss compares."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from direct_alignment.data import Example
from direct_alignment.losses import Completions, Loss
from rlhf.distributed import gather, share
from rlhf.groups import Group, Layout, Rows
from rlhf.logprobs import Scores, score
from rlhf.tensors import masked_sum

AT_ONCE = 1024  # groups scored in one call: bounds the (n, t) tensors, whatever the size of the data


def sequence_logp(scores: Scores, rows: Rows) -> Float[Tensor, " c"]:
    """log pi(completion | prompt) in the order of the groups' completions, nats."""
    return masked_sum(scores.logp, scores.mask)[rows.sequence.argsort()]


def lengths(rows: Rows) -> Float[Tensor, " c"]:
    return rows.mask.sum(-1)[rows.sequence.argsort()].float()


def compare(
    logp: Float[Tensor, " c"],
    length: Float[Tensor, " c"],
    examples: Sequence[Example],
    s_mismatched: Float[Tensor, " k"] | None = None,
) -> Completions:
    """What a loss takes, from the policy's log-probabilities of the examples' completions in their order."""
    reference = None
    if all(example.logp_ref is not None for example in examples):
        reference = logp.new_tensor([x for example in examples for x in example.logp_ref or ()])
    desirable = [label for example in examples for label in example.desirable]
    return Completions(logp, reference, length, torch.tensor(desirable, device=logp.device), s_mismatched)


def count(loss: Loss, examples: Sequence[Example]) -> int:
    """Of the losses that these examples give: one for each pair, or one for each completion."""
    return len(examples) if "pairs" in loss.needs else sum(len(example.desirable) for example in examples)


@torch.no_grad()
def score_all(
    scorer: nn.Module, groups: Sequence[Group], accelerator: Accelerator, layout: Layout
) -> list[tuple[float, ...]]:
    """log pi(completion | prompt) of each group's completions, in nats, computed by all processes together."""
    mine = share(list(groups), accelerator)
    made: list[tuple[float, ...]] = []
    for start in range(0, len(mine), AT_ONCE):
        some = mine[start : start + AT_ONCE]
        with accelerator.autocast():
            scores = score(scorer, some, device=accelerator.device, **layout)
        sums = iter(masked_sum(scores.logp, scores.mask).tolist())
        made += [tuple(next(sums) for _ in group.completions) for group in some]
    return gather(made, accelerator)


def whole_step(
    loss: Loss,
    settings: dict[str, float],
    scorer: nn.Module,
    examples: Sequence[Example],
    accelerator: Accelerator,
    layout: Layout,
) -> tuple[float, list[Tensor]]:
    """The loss of a step whose completions must be seen together, and its slope at each one's log-probability.

    A step that is cut into parts has no part that knows the others. So all are scored first, without gradient; the loss
    of all gives d loss / d logp of each; and `sum(slope * logp)` of a part has that part's gradient, exactly.

    Returns:
        The loss, and for each example the slopes of its completions.
    """
    sums = score_all(scorer, [example.group for example in examples], accelerator, layout)
    logp = torch.tensor([x for own in sums for x in own], device=accelerator.device, requires_grad=True)
    length = logp.new_tensor([sum(counts) for example in examples for counts in example.group.counts])
    value = loss(compare(logp, length, examples), **settings).sum() / count(loss, examples)
    (slope,) = torch.autograd.grad(value, logp)
    return float(value.detach()), list(slope.split([len(own) for own in sums]))
