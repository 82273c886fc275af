"""What a round tells: its metrics, one line for the console, and advice for a run that cannot learn."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray as Array

from rejection_sampling.answered import Answered
from rejection_sampling.config import RejectionSamplingConfig

METRICS: dict[str, dict[str, Any]] = {
    "loss": {
        "description": "Negative log-likelihood of the selected completions, token mean of the step",
        "unit": "nats",
    },
    "round": {"description": "Number of the round, from 1; the metrics below are of all that it sampled", "unit": ""},
    "reward/mean": {"description": "Mean reward of the sampled completions", "unit": ""},
    "reward/exact": {"description": "Share of the sampled completions that are right", "unit": ""},
    "reward/unverified": {
        "description": "Share of completions whose verifier failed or took too long; they count as wrong",
        "unit": "",
    },
    "groups/contrast": {
        "description": "Share of prompts whose completions differ in reward; in the others a selection is a lot",
        "unit": "",
    },
    "groups/solved": {"description": "Share of prompts of which every completion is right", "unit": ""},
    "groups/failed": {"description": "Share of prompts of which no completion is right", "unit": ""},
    "length/mean": {"description": "Mean length of a completion", "unit": "tokens"},
    "length/truncated": {
        "description": "Share of completions cut at max_new_tokens, which are not selected",
        "unit": "",
    },
    "selection/size": {"description": "Completions selected", "unit": ""},
    "selection/reward": {"description": "Mean reward of the selection", "unit": ""},
    "selection/exact": {"description": "Share of the selection that is right", "unit": ""},
    "selection/prompts": {"description": "Share of the prompts that the selection comes from", "unit": ""},
    "selection/by_lot": {
        "description": "Share of the selection whose prompt has completions of one reward only",
        "unit": "",
    },
    "selection/repeats": {"description": "Share of the selection that repeats another one of its prompt", "unit": ""},
    "selection/length": {"description": "Mean length of a selected completion", "unit": "tokens"},
    "time/sampling_s": {"description": "Sampling, scoring and selecting", "unit": "s"},
}
OF_VERDICTS = {"reward/exact", "reward/unverified", "groups/solved", "groups/failed", "selection/exact"}


def describe_metrics(*, verifies: bool) -> dict[str, dict[str, Any]]:
    """The metrics of a run; without reference answers nothing is right or wrong."""
    return {name: about for name, about in METRICS.items() if verifies or name not in OF_VERDICTS}


def metrics_of(
    answered: Sequence[Answered], reward: Float[Array, "b g"], allowed: Bool[Array, "b g"], chosen: Bool[Array, "b g"]
) -> dict[str, float]:
    """Metrics of a round and of its selection."""
    differ = has_contrast(reward, allowed)
    length = np.array([[len(answer.tokens) for answer in it.answers] for it in answered])
    cut = np.array([[not answer.ended for answer in it.answers] for it in answered])
    metrics = {
        "reward/mean": reward.mean(),
        "groups/contrast": differ.mean(),
        "length/mean": length.mean(),
        "length/truncated": cut.mean(),
        "selection/size": chosen.sum(),
        "selection/reward": reward[chosen].mean(),
        "selection/prompts": chosen.any(1).mean(),
        "selection/by_lot": chosen[~differ].sum() / chosen.sum(),
        "selection/repeats": 1 - _distinct(answered, chosen) / chosen.sum(),
        "selection/length": length[chosen].mean(),
    }
    verdicts = [[verdict for verdict in it.verdicts if verdict is not None] for it in answered]
    if all(verdicts):
        exact = np.array([[verdict.exact for verdict in own] for own in verdicts])
        metrics |= {
            "reward/exact": exact.mean(),
            "reward/unverified": np.mean([bool(verdict.failed) for own in verdicts for verdict in own]),
            "groups/solved": (exact == 1).all(1).mean(),
            "groups/failed": (exact == 0).all(1).mean(),
            "selection/exact": exact[chosen].mean(),
        }
    return {name: float(metrics[name]) for name in METRICS if name in metrics}


def has_contrast(reward: Float[Array, "b g"], allowed: Bool[Array, "b g"]) -> Bool[Array, " b"]:
    """Of which prompts the completions that may be selected differ in reward: there a selection can matter."""
    highest = np.where(allowed, reward, -np.inf).max(1)
    lowest = np.where(allowed, reward, np.inf).min(1)
    return highest > lowest


def _distinct(answered: Sequence[Answered], chosen: Bool[Array, "b g"]) -> int:
    """How many different completions of their prompts are chosen."""
    return sum(
        len({it.answers[j].tokens for j in np.flatnonzero(own)}) for it, own in zip(answered, chosen, strict=True)
    )


def in_words(number: int, metrics: Mapping[str, float], config: RejectionSamplingConfig) -> str:
    """The round in a line."""
    right = f", {metrics['reward/exact']:.2f} right" if "reward/exact" in metrics else ""
    of_selected = f", {metrics['selection/exact']:.2f} right" if "selection/exact" in metrics else ""
    return (
        f"round {number + 1}: {config.prompts_per_round} prompts x {config.group_size} completions{right}; their "
        f"rewards differ in {metrics['groups/contrast']:.0%} of the prompts; selected {metrics['selection/size']:.0f}"
        f"{of_selected}, mean reward {metrics['reward/mean']:.2f} -> {metrics['selection/reward']:.2f}, from "
        f"{metrics['selection/prompts']:.0%} of the prompts"
    )


class Adviser:
    """Looks at every round and says why nothing is being learned."""

    def __init__(self, config: RejectionSamplingConfig):
        self.config = config

    def check(self, metrics: Mapping[str, float]) -> list[str]:
        """Advice after a step with these metrics; only the first step of a round has those of the round."""
        if "round" not in metrics:
            return []
        return [*self._no_contrast(metrics), *self._of_selection(metrics)]

    def _no_contrast(self, metrics: Mapping[str, float]) -> list[str]:
        if metrics["groups/contrast"] >= 0.05:
            return []
        alike = (
            "In over 95 % of the prompts all completions have the same reward, so a selection within a prompt is a lot"
        )
        if metrics.get("groups/failed", 0.0) > 0.9:
            return [
                f"{alike}: none is right. Make the task easier (task_config), train on demonstrations first "
                "(instruction_tuning), or raise group_size. If answers are right but in another form, see answer_in."
            ]
        if metrics.get("groups/solved", 0.0) > 0.9:
            return [f"{alike}: all are right, and nothing is left to learn from this task."]
        return [f"{alike}. Look at the rewards in samples.jsonl, or raise group_size or temperature."]

    def _of_selection(self, metrics: Mapping[str, float]) -> list[str]:
        advice = []
        if (failed := metrics.get("reward/unverified", 0.0)) > 0:
            advice.append(
                f"The verifier failed or took too long at {failed:.1%} of the completions; they count as wrong "
                "(reward/unverified)."
            )
        if metrics["length/truncated"] > 0.5:
            advice.append(
                "Over half of the completions are cut at max_new_tokens, and none of those is selected: what is "
                "learned is short. Raise max_new_tokens."
            )
        passes = self.config.steps_per_round * self.config.batch_size / metrics["selection/size"]
        if passes > 10:
            advice.append(
                f"A round goes {passes:.0f} times over its {metrics['selection/size']:.0f} selected completions, which "
                "are learned by heart. Raise prompts_per_round, or lower steps_per_round."
            )
        return advice
