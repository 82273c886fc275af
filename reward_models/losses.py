"""The losses of reward models: pure functions, one number a pair, list, token or step. They reduce nothing.

Shapes: b rankings of k answers; n completions of t tokens; m labelled steps. Rewards and logits are fp32.

    >>> chosen, rejected = torch.tensor([1.0]), torch.tensor([0.0])
    >>> bradley_terry(chosen, rejected, margin=torch.zeros(1))
    tensor([0.3133])
    >>> plackett_luce(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    tensor([0.3133, 0.6931])
    >>> centering(chosen, rejected)
    tensor([1.])
    >>> outcome(torch.tensor([[0.0, 1.0]]), right=torch.ones(1))
    tensor([[0.6931, 0.3133]])
    >>> process(torch.zeros(1, 3), label=torch.tensor([2]))
    tensor([1.0986])
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid

from reward_models.config import OutcomeConfig, PreferenceConfig
from reward_models.examples import Example
from reward_models.held_out_metrics import Read, Result, outcome_result, preference_result, process_result
from rlhf.models.heads import Readings
from rlhf.text.steps import CLASSES


def bradley_terry(
    chosen: Float[Tensor, " b"], rejected: Float[Tensor, " b"], margin: Float[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """-log sigmoid(r_w - r_l - margin): the chosen answer should win, by `margin` at least.

    P(w beats l) = sigmoid(r_w - r_l) is the model of Bradley and Terry, "Rank analysis of incomplete block designs",
    1952; as a reward model's loss, Ouyang et al., 2022, arXiv 2203.02155, equation 1. The margin is that of Llama 2,
    Touvron et al., 2023, arXiv 2307.09288, equation 2; 0 leaves it out.
    """
    return -logsigmoid(chosen - rejected - margin)


def centering(chosen: Float[Tensor, " b"], rejected: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """(r_w + r_l)^2: preferences leave a constant in the reward open, and this term keeps the mean of a pair near 0.

    Eisenstein et al., "Helping or herding?", 2023, arXiv 2312.09244, equation 2.
    """
    return (chosen + rejected).square()


def plackett_luce(reward: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """- sum_{i<k} log( exp r_i / sum_{j>=i} exp r_j ), rewards best first: each answer is chosen from those left.

    Plackett, "The analysis of permutations", 1975; Luce, 1959. With two answers it is Bradley-Terry.
    """
    left = reward.flip(1).logcumsumexp(1).flip(1)  # log sum_{j>=i}: a cumulative sum from the worst answer on
    return (left - reward).sum(1)


def outcome(logit: Float[Tensor, "n t"], right: Float[Tensor, " n"]) -> Float[Tensor, "n t"]:
    """Binary cross-entropy of every token against whether the whole solution is right.

    Cobbe et al., "Training verifiers to solve math word problems", 2021, arXiv 2110.14168: a verifier that
    predicts at every token learns to judge a solution while it is being written.
    """
    return binary_cross_entropy_with_logits(logit, right[:, None].expand_as(logit), reduction="none")


def process(logits: Float[Tensor, "m c"], label: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Cross-entropy of each step's class, read at the step's last token.

    Lightman et al., "Let's verify step by step", 2023, arXiv 2305.20050. `label`: 0 wrong, 1 neutral, 2 right.
    """
    return cross_entropy(logits, label, reduction="none")


# -------------------------------------------------------------------- from the head's outputs to the terms of the loss


@dataclass(frozen=True)
class Objective:
    """What tells one reward model from another."""

    loss: Callable[[Readings, list[Example]], Float[Tensor, " terms"]]
    loss_terms: Callable[[Example], int]  # how many terms of the loss an example has
    evaluate: Callable[[Read, Sequence[Example], str], Result]  # the last argument names the data
    criterion: str  # the metric that says how good the model is
    compares: bool  # whether answers of an example are compared, and so must stand in one micro-batch


def preference_objective(config: PreferenceConfig) -> Objective:
    """One loss a question: Bradley-Terry, its mean where there are several pairs; Plackett-Luce for longer rankings.

    All pairs of a question are one unit of the batch, since they are not independent: Ouyang et al., 2022, section 3.5.
    """

    def loss(output: Readings, examples: list[Example]) -> Tensor:
        sizes = [len(example.group.completions) for example in examples]
        rewards = output.final.split(sizes)
        return torch.stack([_preference(reward, example) for reward, example in zip(rewards, examples, strict=True)])

    def _preference(reward: Float[Tensor, " k"], example: Example) -> Float[Tensor, ""]:
        if len(reward) > 2 and not example.right:  # a ranking; labelled answers are compared in pairs, right with wrong
            ranked = plackett_luce(reward[None])[0]
            return ranked + config.centering * centering(reward[:1], reward[-1:])[0]
        better, worse = (reward[list(side)] for side in zip(*example.pairs, strict=True))
        margin = torch.full_like(better, config.margin_scale * example.margin)
        pairs = bradley_terry(better, worse, margin) + config.centering * centering(better, worse)
        return pairs.mean()

    return Objective(loss, lambda _: 1, preference_result, criterion="accuracy", compares=True)


def outcome_objective(config: OutcomeConfig) -> Objective:
    """One loss a token of a solution, or one a solution, as `orm_loss` says."""
    at_every_token = config.orm_loss == "tokens"

    def loss(output: Readings, examples: list[Example]) -> Tensor:
        labels = [float(label is True) for example in examples for label in example.right]
        right = torch.tensor(labels, device=output.last_index.device)
        if at_every_token:
            return outcome(output.logits[..., 0], right)[output.mask]
        return outcome(output.final[:, None], right)[:, 0]

    def loss_terms(example: Example) -> int:
        return sum(map(sum, example.group.loss_mask)) if at_every_token else len(example.right)

    return Objective(loss, loss_terms, outcome_result, criterion="auc", compares=False)


def process_objective() -> Objective:
    """One loss a labelled step, read at the token that ends it."""

    def loss(output: Readings, examples: list[Example]) -> Tensor:
        labels = [label - CLASSES[0] for example in examples for own in example.labels for label in own]
        return process(output.logits[output.mask], torch.tensor(labels, device=output.last_index.device))

    def loss_terms(example: Example) -> int:
        return sum(map(len, example.labels))

    return Objective(loss, loss_terms, process_result, criterion="macro_f1", compares=False)
