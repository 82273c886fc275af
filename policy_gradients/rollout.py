"""Rollouts: prompts and their completions with their rewards, as training tensors.

Axes: b prompts, g completions of each, n = b * g completions, t tokens of the longest one.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rlhf.groups import Group, Rows
from rlhf.sampling import SampledCompletions
from rlhf.tasks.problem import Problem


@dataclass(frozen=True)
class Rollout:
    """One prompt with its g completions and their rewards."""

    number: int  # of the problem in the training stream; the key of its random numbers
    problem: Problem
    prompt: list[int]
    sampled: SampledCompletions
    texts: list[str]
    components: list[dict[str, float]]  # of each completion's reward, unweighted
    reward: list[float]
    policy: int = 0  # the step whose policy sampled the completions
    greedy: "Rollout | None" = None  # the prompt with its greedy completion, where an algorithm compares with it

    @property
    def is_mixed(self) -> bool:
        """Whether some completions are right and some wrong, by exact success, whatever else the reward counts; without
        a reference answer, whether their rewards differ."""
        if not self.is_verified:
            return len(set(self.reward)) > 1
        return len({components["exact"] for components in self.components}) > 1

    @property
    def is_verified(self) -> bool:
        """Whether a reference answer told right from wrong."""
        return "exact" in self.components[0]


@dataclass(frozen=True)
class TokenTensors:
    """The token tensors of the completions in a micro-batch; the fields are those of `Batch`."""

    logp_sampler: Float[Tensor, "n t"]
    logp_old: Float[Tensor, "n t"] | None
    logp_ref: Float[Tensor, "n t"] | None
    value: Float[Tensor, "n t"]
    adv: Float[Tensor, "n t"]
    target: Float[Tensor, "n t"]
    kept: Bool[Tensor, "n t"]
    held: Bool[Tensor, "n t"]
    right: Bool[Tensor, "n t"]


@dataclass
class Batch:
    """The rollouts that one process trains on in a step, and what the step finds out about them.

    The sampler makes it. The training loop fills in the second half, which then stays the same during the optimizer
    steps on the batch.
    """

    rollouts: list[Rollout]
    groups: list[Group]
    reward: Float[Tensor, "b g"]
    length: Int[Tensor, " n"]
    truncated: Bool[Tensor, " n"]
    logp_sampler: Float[Tensor, "n t"]  # the sampler's log-probabilities, nats; zero behind the end
    mask: Bool[Tensor, "n t"]  # True = the token counts in the loss
    age: int | None = None  # steps since the policy that sampled it; None: it is trained on at once
    drawn: int = 0  # prompts that were sampled to make the batch, over all processes
    sampled_tokens: float = 0.0  # tokens that were sampled to make it, over all processes
    greedy_reward: Float[Tensor, "b 1"] | None = None  # of the greedy completions; None: the algorithm needs none
    components: Float[Tensor, "b g k"] | None = None  # of the reward, unweighted; None: the algorithm needs none
    weights: Float[Tensor, " k"] | None = None  # of the components

    logp_old: Float[Tensor, "n t"] | None = None  # of the policy before the first update; None: the update finds it
    logp_ref: Float[Tensor, "n t"] | None = None  # of the reference; None: there is none

    def __post_init__(self) -> None:
        self.value = torch.zeros_like(self.logp_sampler)  # the critic's, before the first update; 0 without a critic
        self.penalty = torch.zeros_like(self.logp_sampler)  # of the KL, in reward; 0 where the KL is not in the reward
        self.adv = torch.zeros_like(self.logp_sampler)  # 0 until credit is assigned
        self.target = torch.zeros_like(self.logp_sampler)  # of the critic's values
        self.kept = self.mask  # in the policy's loss: those that the rules for tokens keep, see token_rules.py
        self.held = torch.zeros_like(self.mask)  # pays for moving, by these rules
        self.right = torch.zeros_like(self.mask)  # counts, in a right completion; False where the loss does not ask

    def find_right(self) -> None:
        """Fill in `right`, by the verdicts on the completions."""
        exact = [own.get("exact") == 1 for it in self.rollouts for own in it.components]
        self.right = self.mask & torch.tensor(exact, device=self.mask.device)[:, None]

    @property
    def generated(self) -> Bool[Tensor, "n t"]:
        """True = a token of a completion, whether or not it counts in the loss."""
        t = torch.arange(self.mask.shape[1], device=self.mask.device)
        return t < self.length[:, None].to(self.mask.device)

    @property
    def whole_groups(self) -> list[Group]:
        """The groups with every token counting: to score completions that the loss leaves out."""
        return [replace(group, loss_mask=()) for group in self.groups]

    def parts(self, count: int, *, passes: int) -> Generator["Batch"]:
        """The mini-batches: `count` parts of equally many prompts, each once in every pass."""
        size = len(self.groups) // count
        for _ in range(passes):
            for first in range(0, size * count, size):
                yield self.part(slice(first, first + size))

    def part(self, prompts: slice) -> "Batch":
        """The batch of these prompts alone."""
        g = self.reward.shape[1]
        n = slice(prompts.start * g, prompts.stop * g)

        def rows(x: Tensor | None, which: slice) -> Tensor | None:
            return None if x is None else x[which]

        part = Batch(
            rollouts=self.rollouts[prompts],
            groups=self.groups[prompts],
            reward=self.reward[prompts],
            length=self.length[n],
            truncated=self.truncated[n],
            logp_sampler=self.logp_sampler[n],
            mask=self.mask[n],
            greedy_reward=rows(self.greedy_reward, prompts),
            components=rows(self.components, prompts),
            weights=self.weights,
            logp_old=rows(self.logp_old, n),
            logp_ref=rows(self.logp_ref, n),
        )
        part.value = self.value[n]
        part.penalty = self.penalty[n]
        part.adv = self.adv[n]
        part.target = self.target[n]
        return part

    def tokens_of(self, rows: Rows) -> TokenTensors:
        """The token tensors of a micro-batch of these groups, in the order of its completions."""
        n = rows.index
        t = rows.mask.shape[1]
        return TokenTensors(
            logp_sampler=self.logp_sampler[n, :t],
            logp_old=None if self.logp_old is None else self.logp_old[n, :t],
            logp_ref=None if self.logp_ref is None else self.logp_ref[n, :t],
            value=self.value[n, :t],
            adv=self.adv[n, :t],
            target=self.target[n, :t],
            kept=self.kept[n, :t],
            held=self.held[n, :t],
            right=self.right[n, :t],
        )

    def samples(self, count: int = 4) -> list[dict[str, Any]]:
        """The first completion of each of the first `count` prompts, as records of samples.jsonl."""
        return [
            {
                "prompt": rollout.problem.question,
                "completion": rollout.texts[0],
                **({"answer": rollout.problem.answer} if rollout.is_verified else {}),
                "reward": rollout.components[0],
                "total": rollout.reward[0],
            }
            for rollout in self.rollouts[:count]
        ]


def loss_mask(groups: Sequence[Group]) -> Bool[Tensor, "n t"]:
    """Which tokens count in the loss, right-padded: the same that `rlhf.groups` gives to each micro-batch."""
    masks = [
        torch.tensor(group.loss_mask[i] if group.loss_mask else [True] * len(tokens))
        for group in groups
        for i, tokens in enumerate(group.completions)
    ]
    return pad_sequence(masks, batch_first=True)
