"""What is measured along the way, and what to tell the user when a run goes wrong."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float
from torch import Tensor

from direct_alignment.loss import Completions, Loss
from rlhf.distributed import gather

METRICS = {
    "loss": {"description": "Mean over the step's pairs (over completions where the loss needs no pairs)", "unit": ""},
    "reward/accuracy": {
        "description": "Share of pairs whose chosen completion has the higher implicit reward; ties count one half. "
        "Of data without pairs: share of completions on the right side of the loss's own threshold",
        "unit": "",
    },
    "reward/margin": {"description": "Implicit reward of the chosen less that of the rejected", "unit": ""},
    "reward/chosen": {"description": "Implicit reward of chosen completions: beta times the loss's score", "unit": ""},
    "reward/rejected": {"description": "Implicit reward of rejected completions", "unit": ""},
    "logp/chosen": {
        "description": "Log-probability of chosen completions; where it falls, their share is going elsewhere",
        "unit": "nats",
    },
    "logp/rejected": {"description": "Log-probability of rejected completions", "unit": "nats"},
    "kto/z": {
        "description": "Mean log-ratio of mismatched completions: KTO's reference point, if positive",
        "unit": "",
    },
    "length/chosen": {"description": "Mean length of chosen completions", "unit": "tokens"},
    "length/rejected": {"description": "Mean length of rejected completions", "unit": "tokens"},
    "online/pairs": {"description": "Pairs sampled from the policy the last time", "unit": ""},
    "time/sampling_s": {"description": "Sampling and judging new pairs", "unit": "s"},
    "time/reference_s": {"description": "Log-probabilities of a moving reference", "unit": "s"},
    "time/mismatched_s": {"description": "Log-probabilities of KTO's mismatched completions", "unit": "s"},
}


def implicit_reward(loss: Loss, completions: Completions, settings: Mapping[str, float]) -> Float[Tensor, " c"]:
    """What the loss ranks completions by, in its own scale."""
    return settings.get("beta", 1.0) * completions.get(loss.score).detach()


def ranked_right(
    reward: Float[Tensor, " c"], desirable: Bool[Tensor, " c"], *, pairs: bool, threshold: float = 0.0
) -> Float[Tensor, " k"]:
    """1 for each pair, or completion, that the reward is right about, 0 where it is wrong, 1/2 for a tie.

    A pair: the chosen's is the higher. A completion alone: it is on the right side of `threshold`, the loss's own.
    """
    if pairs:
        margin = reward[0::2] - reward[1::2]
        return (margin.sign() + 1) / 2
    return ((reward - threshold).sign() * torch.where(desirable, 1.0, -1.0) + 1) / 2


def judged_right(
    loss: Loss, completions: Completions, settings: Mapping[str, float], *, pairs: bool
) -> Float[Tensor, " k"]:
    """`ranked_right` by the loss's implicit reward and threshold, of all completions of a step or of an evaluation."""
    reward = implicit_reward(loss, completions, settings)
    threshold = 0.0 if pairs else loss.threshold(completions, settings)
    return ranked_right(reward, completions.desirable, pairs=pairs, threshold=threshold)


class StepSums:
    """The completions of all micro-batches of a step, then means over all processes."""

    def __init__(self, loss: Loss, settings: Mapping[str, float]):
        self.loss, self.settings = loss, settings
        self.parts: list[Completions] = []
        self.pairs, self.tokens = True, 0

    def add(self, completions: Completions, *, pairs: bool) -> None:
        self.pairs = pairs
        self.tokens += int(completions.length.sum())
        self.parts.append(completions.detached())

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Of the whole step: the threshold that unpaired completions are judged by may depend on all of them."""
        whole = together(gather(self.parts, accelerator))
        reward = implicit_reward(self.loss, whole, self.settings)
        right = judged_right(self.loss, whole, self.settings, pairs=self.pairs)
        metrics = {"reward/accuracy": float(right.double().mean())}
        for side, kind in (("chosen", whole.desirable), ("rejected", ~whole.desirable)):
            if kind.any():
                values = {"reward": reward, "logp": whole.logp, "length": whole.length}
                metrics |= {f"{key}/{side}": float(value[kind].double().mean()) for key, value in values.items()}
        if "reward/chosen" in metrics and "reward/rejected" in metrics:
            metrics["reward/margin"] = metrics["reward/chosen"] - metrics["reward/rejected"]
        return metrics


def together(parts: Sequence[Completions]) -> Completions:
    """The completions of several micro-batches as one."""
    reference = [part.logp_ref for part in parts if part.logp_ref is not None]
    return Completions(
        torch.cat([part.logp for part in parts]),
        torch.cat(reference) if reference else None,
        torch.cat([part.length for part in parts]),
        torch.cat([part.desirable for part in parts]),
        parts[0].s_mismatched,  # of the whole step already
    )


class Adviser:
    """Warns when steps show that a run cannot learn."""

    def __init__(self, window: int = 20):
        self.accuracies: deque[float] = deque(maxlen=window)

    def check(self, metrics: Mapping[str, float]) -> list[str]:
        """Warnings after a step."""
        self.accuracies.append(metrics["reward/accuracy"])
        if len(self.accuracies) == self.accuracies.maxlen and set(self.accuracies) == {0.5}:
            return ["Chosen and rejected get the same reward, so the policy does not move: raise lr."]
        return []


def advice_on_evaluations(results: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]) -> list[str]:
    """What to tell the user after an evaluation. `results`: the records so far, by data and metric."""
    first, values = ({which: records[i]["value"] for which, records in results.items()} for i in (0, -1))
    advice = []
    chosen = ("chosen", "logp")
    if chosen in values and (fallen := first[chosen] - values[chosen]) > 5:
        advice.append(
            f"Displacement: held-out chosen completions have become {fallen:.0f} nats less likely. What they and "
            "the rejected ones lose goes to completions that are neither. If what the policy writes gets worse, "
            "lower lr, raise beta, or take a loss that holds the chosen up (nca, apo_zero, orpo)."
        )
    if (kl := values.get(("samples", "kl"), 0.0)) > 50:
        advice.append(
            f"The policy is {kl:.0f} nats a completion from where it started: it is leaving what it was trained "
            "on. Lower lr or raise beta."
        )
    length = ("samples", "length")
    if length in values and values[length] > 1.5 * first[length]:
        advice.append(
            f"What the policy writes has grown from {first[length]:.0f} to {values[length]:.0f} tokens. If chosen "
            "completions are the longer ones, that is what it learned: losses on token means (simpo, dpo_norm) are "
            "less drawn to it."
        )
    return advice
