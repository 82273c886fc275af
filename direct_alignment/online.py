"""Pairs of the policy as it is now: the same loss, on data that follow it.

Guo et al., "Direct Language Model Alignment from Online AI Feedback", 2024, arXiv 2402.04792; here a verifier judges.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from direct_alignment.config import DirectAlignmentConfig
from direct_alignment.data import Example, Say, to_examples, with_mismatched, with_shared
from direct_alignment.loss import Loss
from direct_alignment.reference import Reference
from rlhf.candidates import Candidates, to_rankings
from rlhf.data.answers import sampled_answer
from rlhf.data.ranking_groups import Limits
from rlhf.distributed import gather, local_shard
from rlhf.errors import UserError
from rlhf.groups import Group
from rlhf.random_keys import of_training
from rlhf.run.session import Session
from rlhf.sampling import sample
from rlhf.tasks.encoding import encode_problem
from rlhf.tasks.problem import Task
from rlhf.text.chat import end_tokens


class OnlinePairs:
    """Batches of pairs that are sampled from the policy every `online_every` steps."""

    def __init__(
        self,
        session: Session,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        loss: Loss,
        reference: Reference | None,
    ):
        self.session, self.model, self.tokenizer = session, model, tokenizer
        self.task, self.loss, self.reference = task, loss, reference
        self.config: DirectAlignmentConfig = session.command.config
        self.pairs: list[Example] = []

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"fresh": to_state(self.pairs)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.pairs = from_state(state.get("fresh", []))

    def batch(self, step: int) -> list[Example]:
        """The pairs of a step, with the log-probabilities of the reference as it is now."""
        if step % self.config.online_every == 0:
            with self.session.watch("sampling"):
                fresh = fresh_pairs(
                    self.model,
                    self.tokenizer,
                    self.task,
                    self.session.accelerator,
                    self.config,
                    self.loss,
                    step=step,
                    say=self.session.console.say,
                )
                self.pairs = self.reference.score(fresh) if self.reference is not None else fresh
        return take(self.pairs, step, self.config)


def fresh_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    accelerator: Accelerator,
    config: DirectAlignmentConfig,
    loss: Loss,
    *,
    step: int,
    say: Say,
) -> list[Example]:
    """Right against wrong completions of new problems, as many problems as the next `online_every` steps have pairs.

    Problems without contrast give none, so the pairs may be fewer, and come again within these steps. Which problems,
    and what is sampled, depends on seed and step alone.

    Raises:
        UserError: no problem has both a right and a wrong completion.
    """
    first = config.data.problems + step * config.batch_size  # behind those of the data that the run started with
    problems = task.train_problems(seed=config.seed, first=first, count=config.online_every * config.batch_size)
    mine = local_shard(list(enumerate(problems, start=first)), accelerator)
    with accelerator.autocast():
        sampled = sample(
            model,
            [encode_problem(tokenizer, problem, config.system_prompt) for _, problem in mine],
            completions=config.data.candidates,
            max_new_tokens=config.max_new_tokens,
            end_tokens=end_tokens(tokenizer),
            keys=[of_training(config.seed, number) for number, _ in mine],
        )
    candidates = []
    for (_, problem), one in zip(mine, sampled, strict=True):
        answers = [sampled_answer(tokenizer, tokens) for tokens in one.tokens]
        candidates.append(Candidates(problem, answers, [task.verify(problem, answer.text) for answer in answers]))
    rankings = to_rankings(gather(candidates, accelerator), seed=config.seed, per_problem=config.data.per_problem)
    if not rankings:
        raise UserError(
            f"online_every: at step {step} every problem has completions that are all right or all wrong",
            hint="There is nothing left to prefer: a harder task_config, more data.candidates, or fewer max_steps.",
        )
    limits: Limits = {"max_length": config.max_length, "truncation": config.truncation}
    examples = to_examples(tokenizer, rankings, None, system_prompt=config.system_prompt, say=say, **limits)
    examples = with_shared(examples) if "shared" in loss.needs else examples
    return with_mismatched(examples, **limits) if "mismatched" in loss.needs else examples


def take(buffer: list[Example], step: int, config: DirectAlignmentConfig) -> list[Example]:
    """The pairs of a step out of those that were sampled for `online_every` of them."""
    start = step % config.online_every * config.batch_size
    return [buffer[i % len(buffer)] for i in range(start, start + config.batch_size)]


def to_state(buffer: list[Example]) -> list[dict[str, Any]]:
    """For a checkpoint: what was sampled cannot be sampled again, since the policy has moved on."""
    return [asdict(example) for example in buffer]


def from_state(state: list[dict[str, Any]]) -> list[Example]:
    def numbers(values: list[float] | None) -> tuple[float, ...] | None:
        return None if values is None else tuple(values)

    return [
        Example(
            group=Group(**one["group"]),
            desirable=tuple(one["desirable"]),
            mismatched=None if one["mismatched"] is None else Group(**one["mismatched"]),
            logp_ref=numbers(one["logp_ref"]),
            logp_ref_mismatched=numbers(one["logp_ref_mismatched"]),
            shared=None if one.get("shared") is None else Group(**one["shared"]),
            logp_ref_shared=numbers(one.get("logp_ref_shared")),
            question=one.get("question", ""),
        )
        for one in state
    ]
