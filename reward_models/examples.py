"""Examples: a question once, its answers as branches of a shared-prefix row; and their split into three parts.

The parts share no question: to train on, to stop by (validation), and to report (held-out).
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from transformers import PreTrainedTokenizerBase

from reward_models.config import DataConfig, RewardModelConfig
from rlhf.candidates import Candidates, distinct_problems, sample_candidates
from rlhf.data.splits import split_by_question
from rlhf.groups import Group
from rlhf.tasks.problem import refuse_unverified
from rlhf.tasks.registry import open_task

type Say = Callable[[str], None]


@dataclass(frozen=True)
class Example:
    """A question with answers, tokenized. `group.loss_mask` is True on the tokens whose scores are read."""

    question: str
    group: Group
    texts: list[str]
    right: list[bool | None] = field(default_factory=list)  # of each answer, where that is known
    labels: list[list[int]] = field(default_factory=list)  # of each answer's labelled steps: -1, 0 or 1
    steps: list[list[str]] = field(default_factory=list)
    margin: float = 0.0
    step_ends: list[list[int]] = field(default_factory=list)  # of each answer: the last token of every step
    whole: list[bool] = field(default_factory=list)  # of each answer: a solution, not another last step of one
    subset: str = ""  # of a benchmark, where the data name them

    @property
    def tokens(self) -> int:
        return len(self.group.prompt) + sum(map(len, self.group.completions))

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(better, worse), by number: each right answer against each wrong one; of a ranking, which has its best first,
        every answer against all behind it."""
        numbers = range(len(self.group.completions))
        if self.right:
            return [(i, j) for i in numbers for j in numbers if self.right[i] and not self.right[j]]
        return [(i, j) for i in numbers for j in numbers if i < j]

    def parts(self, token_budget: int) -> list["Example"]:
        """Itself, or, with more answers than a micro-batch holds, several with some of the answers each."""
        if self.tokens <= token_budget:
            return [self]
        parts: list[list[int]] = [[]]
        room = token_budget - len(self.group.prompt)
        for i, completion in enumerate(self.group.completions):
            if parts[-1] and sum(len(self.group.completions[j]) for j in parts[-1]) + len(completion) > room:
                parts.append([])
            parts[-1].append(i)
        return [self.take(part) for part in parts]

    def take(self, which: Sequence[int]) -> "Example":
        def pick[T](values: Sequence[T]) -> list[T]:
            return [values[i] for i in which] if values else []

        each = ("texts", "right", "labels", "steps", "step_ends", "whole")
        group = Group(self.group.prompt, pick(self.group.completions), pick(self.group.loss_mask))
        return replace(self, group=group, **{name: pick(getattr(self, name)) for name in each})


@dataclass(frozen=True)
class Split:
    """No question is in two of these."""

    name: str
    train: list[Example]
    validation: list[Example]
    held_out: list[Example]

    @property
    def fingerprint(self) -> str:
        """Of all three parts: what is measured on other held-out data is another run."""
        parts = (self.train, self.validation, self.held_out)
        told = [[[e.question, e.texts, e.right, e.labels, e.margin] for e in part] for part in parts]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def split_file(data: DataConfig, examples: list[Example]) -> Split:
    """Of the examples of a file: whole questions kept apart, for validation and to report."""
    train, held_out = split_by_question(examples, lambda e: e.question, held_out=data.held_out)
    train, validation = split_by_question(train, lambda e: e.question, held_out=data.validation, name="validation")
    return Split(data.path, train, validation, held_out)


def numbered[T](items: Iterable[T]) -> list[tuple[str, T]]:
    return [(f"problem {i}", item) for i, item in enumerate(items)]


def sample_problems(
    config: RewardModelConfig, tokenizer: PreTrainedTokenizerBase
) -> tuple[str, list[Candidates], list[Candidates]]:
    """(name, training candidates, held-out candidates), sampled from `data.policy` or taken from the cache.

    The chat template of the run is that of the policy too, where that is the model to train.
    """
    data = config.data
    task = open_task(data.task, data.task_config, answer_in=data.answer_in)
    refuse_unverified(task, "data.path samples")
    train = distinct_problems(task, seed=data.seed, count=data.problems)
    held_out = task.held_out_problems(data.held_out)
    candidates, held = (
        sample_candidates(
            data.policy,
            task,
            problems,
            count=data.candidates,
            max_new_tokens=data.max_new_tokens,
            seed=data.seed,
            system_prompt=data.system_prompt,
            tokenizer=tokenizer if data.policy == config.model_name else None,
        )
        for problems in (train, held_out)
    )
    return data.task, candidates, held
