"""A trained reward model, or several as an ensemble, at work: conversations to rewards.

For best-of-n, for policy gradients (`reward_model: runs/NAME`), and for scoring files.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from reward_models.data import Trace, encode_trace, separator_token
from reward_models.steps import WRONG, Aggregation, aggregate, split_steps
from rlhf.chat import Message, encode_conversation, encode_prompt
from rlhf.errors import UserError
from rlhf.groups import Group
from rlhf.heads import HeadScorer, load_trained, read, takes_shared_rows
from rlhf.loop import open_device

type Combine = Literal["mean", "lower"]
Conversation = tuple[Sequence[Message], Sequence[str]]  # a prompt with answers to it


class RewardModel:
    """One reward for each answer.

    A preference or outcome model gives the number at the last token (the outcome model's is a logit). A process model
    gives the probability that the steps are not wrong, aggregated.

    Args:
        names: run directories or model folders; several make an ensemble. Each member's rewards are put on one scale
            by the mean and spread that it had on its own validation data.
        combine: of an ensemble: the members' mean, or their mean less their standard deviation, which distrusts what
            they do not agree on (Coste et al., "Reward model ensembles help mitigate overoptimization", 2023, arXiv
            2310.02743).
        steps: how a process model's step scores become one.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        combine: Combine = "mean",
        steps: Aggregation = "min",
        token_budget: int = 8192,
        device: str = "auto",
    ):
        opened = open_device(device)
        self.members = [_Member(name, steps, token_budget, opened) for name in names]
        self.combine = combine
        if not self.members:
            raise UserError("reward_model: no model is named")

    def score(self, conversations: Sequence[Conversation]) -> list[list[float]]:
        """Rewards of the answers to each prompt."""
        if len(self.members) == 1:
            flat = self.members[0].score(conversations)
        else:
            scores = np.array([member.scaled(member.score(conversations)) for member in self.members])
            flat = combine(scores, self.combine)
        ends = np.cumsum([len(answers) for _, answers in conversations])
        return [part.tolist() for part in np.split(flat, ends[:-1])]


def combine(scores: np.ndarray, how: Combine) -> np.ndarray:
    """(members, answers) -> (answers,): the mean, or the mean less the unbiased standard deviation over members."""
    return scores.mean(0) - (scores.std(0, ddof=1) if how == "lower" else 0.0)


class _Member:
    def __init__(self, name: str, steps: Aggregation, token_budget: int, device: torch.device):
        self.model, self.tokenizer = load_trained(name)
        self.model.to(device)
        self.steps, self.device, self.token_budget = steps, device, token_budget
        self.shared_prefix = takes_shared_rows(self.model)
        self.by_step = len(self.model.config.id2label or {}) > 1
        self.statistics = getattr(self.model.config, "reward_statistics", None)
        self.name = name

    def score(self, conversations: Sequence[Conversation]) -> np.ndarray:
        groups = [self._steps(*c) if self.by_step else self._whole(*c) for c in conversations]
        found = read(
            HeadScorer(self.model),
            groups,
            token_budget=self.token_budget,
            shared_prefix=self.shared_prefix,
            device=self.device,
        )
        if not self.by_step:
            return np.array([float(last[0]) for _, last in found])
        fine = [(1 - logits.softmax(-1)[:, WRONG + 1]).tolist() for logits, _ in found]
        return np.array([aggregate(scores, self.steps) for scores in fine])

    def scaled(self, scores: np.ndarray) -> np.ndarray:
        if self.by_step:
            return scores  # probabilities are on one scale
        if self.statistics is None:
            raise UserError(f"'{self.name}' does not say how its rewards are spread, so it cannot join an ensemble")
        return (scores - self.statistics["mean"]) / self.statistics["std"]

    def _whole(self, prompt: Sequence[Message], answers: Sequence[str]) -> Group:
        encoded = [
            encode_conversation(
                self.tokenizer, [*prompt, {"role": "assistant", "content": answer}], last_turn_only=True
            )
            for answer in answers
        ]
        return Group(encoded[0].prompt, [e.completion for e in encoded], [e.counts for e in encoded])

    def _steps(self, prompt: Sequence[Message], answers: Sequence[str]) -> Group:
        config = self.model.config
        separator, judged_at = separator_token(self.tokenizer, config.step_separator), config.step_judged_at
        encoded = []
        for answer in answers:
            steps = split_steps(answer) or [answer]
            trace = Trace(steps, [0] * len(steps))
            encoded.append(encode_trace(self.tokenizer, trace, separator, judged_at=judged_at, room=10**9))
        return Group(
            encode_prompt(self.tokenizer, prompt), [tokens for tokens, _, _ in encoded], [c for _, c, _ in encoded]
        )
