"""A trained reward model, or an ensemble of several: from conversations to rewards.

For best-of-n, for policy gradients (`reward_model: runs/NAME`), for pairs judged by a model, and for scoring files.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rlhf.config.scoring import ScoringConfig
from rlhf.data.answers import Answer, encode_answer, text_of
from rlhf.data.ranking_groups import shared_prompt
from rlhf.distributed import device_of, open_device
from rlhf.errors import UserError
from rlhf.groups import Group
from rlhf.models.frozen import store_in_bf16
from rlhf.models.heads import HeadScorer, load_trained, read, takes_shared_rows
from rlhf.models.policy import choose_precision
from rlhf.text.chat import Message, encode_prompt
from rlhf.text.steps import NEUTRAL, RIGHT, encode_steps, join_steps, separator_token, split_steps

type Aggregation = Literal["min", "product", "last"]  # from the scores of steps to that of the solution
type Combine = Literal["mean", "min", "mean_minus_variance", "mean_minus_std"]
Conversation = tuple[Sequence[Message], Sequence[Answer | str]]  # a prompt with answers to it


class RewardModel:
    """One reward for each answer.

    A preference or outcome model gives the number at the last token (the outcome model's is a logit). A process model
    gives the probability that the steps are not wrong, aggregated.

    Args:
        names: run directories or model folders; several make an ensemble. Each member's rewards are put on one scale
            by the mean and spread that it had on its own validation data.
        combine: how the members of an ensemble make one reward; see `combine`.
        variance_weight: lambda of `mean_minus_variance`; None is 0.5.
        steps: how a process model's step scores become one.
        precision: `fp32`, or `bf16`: autocast, with weights in half the memory.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        combine: Combine = "mean",
        variance_weight: float | None = None,
        steps: Aggregation = "min",
        token_budget: int = 8192,
        device: str = "auto",
        precision: str = "fp32",
    ):
        if not names:
            raise UserError("reward_model: no model is named")
        if combine != "mean" and len(names) < 2:
            raise UserError(f"{combine}: an ensemble has several reward models, and one is named")
        if variance_weight is not None and combine != "mean_minus_variance":
            raise UserError(f"variance_weight belongs to mean_minus_variance, not to {combine}")
        if variance_weight is not None and not 0 <= variance_weight < np.inf:
            raise UserError(f"variance_weight: {variance_weight}, wanted a number >= 0")
        opened = open_device(device)
        self.members = [_Member(name, steps, token_budget, opened, precision) for name in names]
        self.combine, self.variance_weight = combine, 0.5 if variance_weight is None else variance_weight

    @classmethod
    def of(cls, config: ScoringConfig) -> "RewardModel":
        """The reward model that the config of a run names, on the device of the run."""
        return cls(
            config.reward_models,
            combine=config.reward_model_combine,
            variance_weight=config.reward_model_variance_weight,
            steps=config.reward_model_steps,
            token_budget=config.token_budget,
            device=config.device,
            precision=choose_precision(config.precision, device_of(config.device)),
        )

    def score(self, conversations: Sequence[Conversation]) -> list[list[float]]:
        """Rewards of the answers to each prompt."""
        if len(self.members) == 1:
            flat = self.members[0].score(conversations)
        else:
            scores = np.array([member.scaled(member.score(conversations)) for member in self.members])
            flat = combine(scores, self.combine, variance_weight=self.variance_weight)
        ends = np.cumsum([len(answers) for _, answers in conversations])
        return [part.tolist() for part in np.split(flat, ends[:-1])]


def combine(scores: np.ndarray, how: Combine, *, variance_weight: float = 0.5) -> np.ndarray:
    """(members, answers) -> (answers,). All but the mean distrust what the members do not agree on.

    Args:
        how: `mean`; `min`, the worst case; `mean_minus_variance`, mean - lambda * variance, uncertainty-weighted: the
            three of Coste et al., "Reward Model Ensembles Help Mitigate Overoptimization", 2023, arXiv 2310.02743, who
            take the variance over the k members (over k, not k - 1). `mean_minus_std`, mean - standard deviation
            (over k - 1), is in the reward's own unit: another choice, which Eisenstein et al., "Helping or Herding?",
            2023, arXiv 2312.09244, discuss.
        variance_weight: lambda.
    """
    mean = scores.mean(0)
    if how == "min":
        return scores.min(0)
    if how == "mean_minus_variance":
        return mean - variance_weight * scores.var(0)
    if how == "mean_minus_std":
        return mean - scores.std(0, ddof=1)
    return mean


class _Member:
    def __init__(self, name: str, steps: Aggregation, token_budget: int, device: torch.device, precision: str):
        self.model, self.tokenizer = load_trained(name)
        self.model.to(device)
        self.steps, self.device, self.token_budget = steps, device, token_budget
        self.shared_prefix = takes_shared_rows(self.model)
        self.in_bf16 = precision == "bf16"
        if self.in_bf16:
            store_in_bf16(self.model)
        self.by_step = len(self.model.config.id2label or {}) > 1
        self.statistics = getattr(self.model.config, "reward_statistics", None)
        self.name = name

    def score(self, conversations: Sequence[Conversation]) -> np.ndarray:
        groups = [self._steps(*c) if self.by_step else self._whole(*c) for c in conversations]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.in_bf16):
            found = read(
                HeadScorer(self.model),
                groups,
                token_budget=self.token_budget,
                shared_prefix=self.shared_prefix,
                device=self.device,
            )
        if not self.by_step:
            return np.array([float(last[0]) for _, last in found])
        return np.exp([aggregate_log(log_not_wrong(logits), self.steps) for logits, _ in found])

    def scaled(self, scores: np.ndarray) -> np.ndarray:
        if self.by_step:
            return scores  # probabilities are on one scale
        if self.statistics is None:
            raise UserError(f"'{self.name}' does not say how its rewards are spread, so it cannot join an ensemble")
        return (scores - self.statistics["mean"]) / self.statistics["std"]

    def _whole(self, prompt: Sequence[Message], answers: Sequence[Answer | str]) -> Group:
        """Answers as they were sampled, where that is known; one that was cut off is judged without an end token."""
        return Group(*shared_prompt([encode_answer(self.tokenizer, prompt, answer) for answer in answers]))

    def _steps(self, prompt: Sequence[Message], answers: Sequence[Answer | str]) -> Group:
        config = self.model.config
        separator, judged_at = separator_token(self.tokenizer, config.step_separator), config.step_judged_at
        encoded = []
        for answer in answers:
            steps = split_steps(text_of(answer)) or [text_of(answer)]
            tokens = encode_steps(self.tokenizer, steps, separator)
            encoded.append(join_steps(tokens, [NEUTRAL] * len(steps), judged_at=judged_at))  # all are judged
        return Group(
            encode_prompt(self.tokenizer, prompt), [tokens for tokens, _, _ in encoded], [c for _, c, _ in encoded]
        )


def log_not_wrong(logits: Float[Tensor, "s 3"]) -> list[float]:
    """log P(not wrong) of each step, in fp64: from the logits, since 1 - P(wrong) has no digits left near 0."""
    return logits.double().log_softmax(-1)[:, [NEUTRAL + 1, RIGHT + 1]].logsumexp(1).tolist()


def aggregate_log(scores: Sequence[float], how: Aggregation) -> float:
    """From the log-probabilities that each step is not wrong to one of the whole solution, in nats.

    `product` is the log-probability that no step is wrong, if they were independent (Lightman et al., 2023); `min` that
    of the weakest step; `last` that of the final one. In logarithms, since products of many steps run out of digits.
    """
    return {"min": min, "product": math.fsum, "last": lambda values: values[-1]}[how](scores)
