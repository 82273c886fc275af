"""Log-probabilities of completions, and the loss of an optimizer step as a sum over its micro-batches."""

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from direct_alignment.data import Example
from direct_alignment.loss import Completions, Loss
from rlhf.distributed import all_reduce_sum, gather, local_shard
from rlhf.groups import Group, Layout, Rows
from rlhf.logprobs import Scorer, Scores, score
from rlhf.tensors import masked_sum

SHARPER = 0.5  # the temperature of `Completions.logp_sharper`
AT_ONCE = 1024  # groups scored in one call: bounds the (n, t) tensors, whatever the size of the data


def sequence_logp(scores: Scores, rows: Rows) -> Float[Tensor, " c"]:
    """log pi(completion | prompt) in the order of the groups' completions, nats."""
    return rows.in_order(masked_sum(scores.logp, scores.mask))


def shared_logp(scores: Scores, rows: Rows) -> Float[Tensor, " c"]:
    """The same over the first tokens alone, as many as the shorter completion of each pair has."""
    logp, mask = rows.in_order(scores.logp), rows.in_order(scores.mask)
    shorter = mask.sum(1).view(-1, 2).min(1).values.repeat_interleave(2)
    return masked_sum(logp, mask & (mask.cumsum(1) <= shorter[:, None]))


@torch.no_grad()
def sharper_logp(scorer: nn.Module, rows: Rows) -> Float[Tensor, " c"]:
    """`sequence_logp` of the policy at temperature 1/2."""
    return sequence_logp(scorer(rows, SHARPER), rows)


def lengths(rows: Rows) -> Float[Tensor, " c"]:
    return rows.in_order(rows.mask.sum(-1)).float()


def compare(
    logp: Float[Tensor, " c"],
    length: Float[Tensor, " c"],
    examples: Sequence[Example],
    s_mismatched: Float[Tensor, " k"] | None = None,
    logp_shared: Float[Tensor, " c"] | None = None,
    logp_sharper: Float[Tensor, " c"] | None = None,
) -> Completions:
    """What a loss takes, from the policy's log-probabilities of the examples' completions in their order."""

    def of_reference(sums: Sequence[tuple[float, ...] | None]) -> Float[Tensor, " c"] | None:
        known = [own for own in sums if own is not None]
        return logp.new_tensor([x for own in known for x in own]) if len(known) == len(sums) else None

    desirable = [label for example in examples for label in example.desirable]
    return Completions(
        logp,
        of_reference([example.logp_ref for example in examples]),
        length,
        torch.tensor(desirable, device=logp.device),
        s_mismatched,
        logp_shared,
        of_reference([example.logp_ref_shared for example in examples]),
        logp_sharper,
    )


def count(loss: Loss, examples: Sequence[Example]) -> int:
    """How many losses these examples give: one for each pair, or one for each completion."""
    return len(examples) if "pairs" in loss.needs else sum(len(example.desirable) for example in examples)


@torch.no_grad()
def score_all(
    scorer: nn.Module,
    groups: Sequence[Group],
    accelerator: Accelerator,
    layout: Layout,
    *,
    temperature: float = 1.0,
) -> list[tuple[float, ...]]:
    """log pi(completion | prompt) of each group's completions, in nats, computed by all processes together."""
    mine = local_shard(list(groups), accelerator)
    made: list[tuple[float, ...]] = []
    for start in range(0, len(mine), AT_ONCE):
        some = mine[start : start + AT_ONCE]
        with accelerator.autocast():
            scores = score(scorer, some, device=accelerator.device, temperature=temperature, **layout)
        sums = iter(masked_sum(scores.logp, scores.mask).tolist())
        made += [tuple(next(sums) for _ in group.completions) for group in some]
    return gather(made, accelerator)


def mismatched(
    scorer: Scorer, examples: Sequence[Example], accelerator: Accelerator, layout: Layout
) -> Float[Tensor, " k"]:
    """Log-ratios of completions under prompts of others, of all processes' examples, nats: KTO's reference point."""
    groups = [example.mismatched for example in examples if example.mismatched is not None]
    logp = score_all(scorer, groups, accelerator, layout)
    reference = [x for example in examples for x in example.logp_ref_mismatched or ()]
    device = accelerator.device
    return torch.tensor([x for group in logp for x in group], device=device) - torch.tensor(reference, device=device)


class StepLoss:
    """The loss of an optimizer step, as the sum of what `part` returns for each of its micro-batches.

    Most losses are a sum over pairs or completions, of which each micro-batch computes its own. A loss that needs the
    whole step (bco, aot) cannot be computed from one micro-batch of several: then `grad_logp` finds its gradient with
    respect to every log-probability first, and `part` returns a sum that has the micro-batch's part of this gradient.

    Args:
        settings: of the loss, by name.
        examples: of the whole step, the same in every process.
        cut: whether the step is more than one micro-batch of one process.
    """

    def __init__(
        self,
        loss: Loss,
        settings: Mapping[str, float],
        scorer: Scorer,
        examples: Sequence[Example],
        accelerator: Accelerator,
        layout: Layout,
        *,
        cut: bool,
    ):
        self.loss, self.settings, self.accelerator = loss, settings, accelerator
        self.count = count(loss, examples)
        self.value = 0.0
        self.gradients: list[Tensor] | None = None  # for each example of this process
        if cut and "whole step" in loss.needs:
            self.value, gradients = grad_logp(loss, settings, scorer, examples, accelerator, layout)
            self.gradients = local_shard(gradients, accelerator)

    def part(self, completions: Completions, numbers: Sequence[int]) -> Float[Tensor, ""]:
        """A micro-batch's share. `numbers`: which of this process's examples the completions belong to."""
        if self.gradients is not None:
            return (completions.logp * torch.cat([self.gradients[n] for n in numbers])).sum()
        value = self.loss(completions, **self.settings).sum() / self.count
        self.value += float(value.detach())
        return value

    def total(self) -> float:
        """The loss of the step, of all processes: after its last part."""
        return self.value if self.gradients is not None else all_reduce_sum([self.value], self.accelerator)[0]


def grad_logp(
    loss: Loss,
    settings: Mapping[str, float],
    scorer: nn.Module,
    examples: Sequence[Example],
    accelerator: Accelerator,
    layout: Layout,
) -> tuple[float, list[Tensor]]:
    """The loss of all completions of a step together, and its gradient with respect to each one's log-probability.

    All are scored first, without gradient; `sum(grad_logp * logp)` over a part then has that part's gradient, exactly.

    Returns:
        The loss, and for each example the gradients of its completions.
    """
    sums = score_all(scorer, [example.group for example in examples], accelerator, layout)
    logp = torch.tensor([x for group in sums for x in group], device=accelerator.device, requires_grad=True)
    length = logp.new_tensor([sum(mask) for example in examples for mask in example.group.loss_mask])
    value = loss(compare(logp, length, examples), **settings).sum() / count(loss, examples)
    (gradient,) = torch.autograd.grad(value, logp)
    return float(value.detach()), list(gradient.split([len(group) for group in sums]))
