"""What each reward model is fitted to: from the head's readings of a micro-batch to the losses of its units.

Readings are in the order of the examples' answers. Nothing is reduced here: `fit.py` divides the sum of all losses of a
step by the step's units, which are counted before the first backward.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from reward_models import losses
from reward_models.config import OutcomeConfig, PreferenceConfig
from reward_models.data import Example
from reward_models.held_out_metrics import Read, Result, outcome_result, preference_result, process_result
from reward_models.steps import CLASSES
from rlhf.models.heads import Readings


@dataclass(frozen=True)
class Objective:
    """What tells one reward model from another."""

    loss: Callable[[Readings, list[Example]], Float[Tensor, " units"]]
    units: Callable[[Example], int]  # how many losses an example has
    evaluate: Callable[[Read, Sequence[Example], str], Result]  # the last argument names the data
    criterion: str  # the metric that says how good the model is
    compares: bool  # whether answers of an example are compared, and so must stand in one micro-batch


def preference(config: PreferenceConfig) -> Objective:
    """One loss a question: Bradley-Terry, its mean where there are several pairs; Plackett-Luce for longer rankings.

    All pairs of a question are one unit of the batch, since they are not independent: Ouyang et al., 2022, section 3.5.
    """

    def loss(readings: Readings, examples: list[Example]) -> Tensor:
        sizes = [len(example.group.completions) for example in examples]
        rewards = readings.final.split(sizes)
        return torch.stack([_preference(reward, example) for reward, example in zip(rewards, examples, strict=True)])

    def _preference(reward: Float[Tensor, " k"], example: Example) -> Float[Tensor, ""]:
        if len(reward) > 2 and not example.right:
            ranked = losses.plackett_luce(reward[None])[0]
            return ranked + config.centring * losses.centring(reward[:1], reward[-1:])[0]
        better, worse = (reward[list(side)] for side in zip(*example.pairs, strict=True))
        margin = torch.full_like(better, config.margin_scale * example.margin)
        pairs = losses.bradley_terry(better, worse, margin) + config.centring * losses.centring(better, worse)
        return pairs.mean()

    return Objective(loss, lambda _: 1, preference_result, criterion="accuracy", compares=True)


def outcome(config: OutcomeConfig) -> Objective:
    """One loss a token that counts, or one a solution."""
    at_every_token = config.orm_loss == "tokens"

    def loss(readings: Readings, examples: list[Example]) -> Tensor:
        labels = [float(label is True) for example in examples for label in example.right]
        right = torch.tensor(labels, device=readings.last.device)
        if at_every_token:
            return losses.outcome(readings.logits[..., 0], right)[readings.mask]
        return losses.outcome(readings.final[:, None], right)[:, 0]

    def units(example: Example) -> int:
        return sum(map(sum, example.group.counts)) if at_every_token else len(example.right)

    return Objective(loss, units, outcome_result, criterion="auc", compares=False)


def process() -> Objective:
    """One loss a labelled step, read at the token that ends it."""

    def loss(readings: Readings, examples: list[Example]) -> Tensor:
        labels = [label - CLASSES[0] for example in examples for own in example.labels for label in own]
        return losses.process(readings.logits[readings.mask], torch.tensor(labels, device=readings.last.device))

    def units(example: Example) -> int:
        return sum(map(len, example.labels))

    return Objective(loss, units, process_result, criterion="macro_f1", compares=False)
