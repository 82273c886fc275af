"""Held-out evaluation: what the policy prefers, and the completions that it samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from direct_alignment.config import DirectAlignmentConfig
from direct_alignment.data import Example
from direct_alignment.diagnostics import advice_on_evaluations, implicit_reward, judged_right
from direct_alignment.log_ratios import SHARPER, compare, count, mismatched, score_all
from direct_alignment.loss import Loss
from direct_alignment.reference import Reference
from rlhf.distributed import gather, local_shard
from rlhf.evaluate.task import evaluate_task
from rlhf.groups import Group, Layout
from rlhf.logprobs import Scorer
from rlhf.random_keys import of_samples
from rlhf.run.session import Session
from rlhf.sampling import SampledCompletions, refuse_long_prompts, sample
from rlhf.statistics import record, t_interval, wilson
from rlhf.tasks.encoding import encode_problem
from rlhf.tasks.problem import Task
from rlhf.text.chat import decode, end_tokens

PAIRS, SAMPLES = "held-out pairs", "samples"
SHOWN = 4  # completions that are sampled for samples.jsonl


class Evaluation:
    """What is measured on held-out data while a policy is trained, and the samples that are written down.

    Raises:
        UserError: the model cannot read the prompts with completions of `max_new_tokens`.
    """

    def __init__(
        self,
        session: Session,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        held_out: Sequence[Example],
        task: Task | None,
        loss: Loss,
        settings: Mapping[str, float],
        reference: Reference | None,
    ):
        self.session, self.model, self.tokenizer = session, model, tokenizer
        self.held_out, self.task, self.loss, self.settings = held_out, task, loss, settings
        self.reference = reference
        self.config: DirectAlignmentConfig = session.command.config
        self.problems = task.held_out_problems(self.config.eval_problems) if task else []
        self.prompts = list(dict.fromkeys(tuple(example.group.prompt) for example in held_out))
        self.questions = [encode_problem(tokenizer, it, self.config.system_prompt) for it in self.problems]
        sampled = self.prompts[: max(SHOWN, self.config.eval_samples)]
        refuse_long_prompts(model, [*self.questions, *sampled], self.config.max_new_tokens)

    def evaluate(self, step: int) -> None:
        """Accuracy on the task, held-out pairs, KL and length of samples; first and last greedy accuracy too."""
        records = [self._accuracy(greedy=False)] if self.task else []
        records += self._pairs()
        if prompts := self.prompts[: self.config.eval_samples]:
            records += evaluate_samples(prompts, self._sample(prompts), self.reference)
        if self.task and self.session.is_edge(step):
            records.append(self._accuracy(greedy=True))
        self.session.log_evaluation(step, records)
        for text in advice_on_evaluations(self.session.results):
            self.session.advise(step, text)

    def sample(self, step: int) -> None:
        """Write some completions down: of held-out problems where there is a task, and then with their verdicts."""
        prompts = (self.questions or self.prompts)[:SHOWN]
        samples = [
            as_sample(self.tokenizer, prompt, one) for prompt, one in zip(prompts, self._sample(prompts), strict=True)
        ]
        right = None
        if self.task:
            for problem, sample in zip(self.problems, samples, strict=False):
                verdict = self.task.verify(problem, sample["completion"])
                sample["total"] = verdict.exact if verdict else sample["total"]
            right = sum(sample["total"] == 1 for sample in samples) if self.task.verifies else None
        self.session.log_samples(step, samples, right=right)

    def _accuracy(self, *, greedy: bool) -> dict[str, Any]:
        assert self.task is not None
        return evaluate_task(
            self.model,
            self.tokenizer,
            self.task,
            self.problems,
            self.session.accelerator,
            max_new_tokens=self.config.max_new_tokens,
            greedy=greedy,
            system_prompt=self.config.system_prompt,
        )

    def _pairs(self) -> list[dict[str, Any]]:
        # A reference that moves is the one that the loss compares with now, in training and here alike.
        held_out = self.held_out
        if self.reference is not None and self.reference.moves:
            held_out = self.reference.score(held_out)
        accelerator, layout = self.session.accelerator, self.session.layout
        return evaluate_pairs(self.model, held_out, self.loss, self.settings, accelerator, layout)

    def _sample(self, prompts: Sequence[Sequence[int]]) -> list[SampledCompletions]:
        accelerator, longest = self.session.accelerator, self.config.max_new_tokens
        return sample_completions(self.model, self.tokenizer, prompts, accelerator, max_new_tokens=longest)


def evaluate_pairs(
    model: PreTrainedModel,
    examples: Sequence[Example],
    loss: Loss,
    settings: Mapping[str, float],
    accelerator: Accelerator,
    layout: Layout,
) -> list[dict[str, Any]]:
    """Loss, implicit-reward accuracy and margin, and the log-probabilities of both sides apart: eval.jsonl records.

    The two log-probabilities are one metric of two kinds of data, so that a report draws them on the same axes: where
    both fall, the margin grows and the probability goes to neither (displacement).
    """
    scorer = Scorer(model)
    groups = [example.group for example in examples]

    def logp_at(temperature: float) -> Float[Tensor, " c"]:
        sums = score_all(scorer, groups, accelerator, layout, temperature=temperature)
        return torch.tensor([x for own in sums for x in own])

    logp = logp_at(1.0)
    length = torch.tensor([float(sum(mask)) for example in examples for mask in example.group.loss_mask])
    s_mismatched = mismatched(scorer, examples, accelerator, layout).cpu() if "mismatched" in loss.needs else None
    shared = [example.shared for example in examples if example.shared is not None]
    of_shared = torch.tensor([x for own in score_all(scorer, shared, accelerator, layout) for x in own])
    of_sharper = logp_at(SHARPER) if "sharper" in loss.needs else None
    completions = compare(logp, length, examples, s_mismatched, of_shared if shared else None, of_sharper)
    pairs = all(len(example.desirable) == 2 for example in examples)
    reward = implicit_reward(loss, completions, settings)
    right = judged_right(loss, completions, settings, pairs=pairs)
    value = loss(completions, **settings).sum() / count(loss, examples)
    name = PAIRS if pairs else "held-out completions"
    # Pairs, and completions, of one question are not independent: the intervals are over questions.
    question = np.array([example.question for example in examples for _ in example.desirable])
    of_right = question[0::2] if pairs else question
    records = [
        record(wilson(right, of_right), data=name, metric="reward_accuracy"),
        {"data": name, "metric": "loss", "value": float(value), "n": len(right)},
    ]
    if pairs:
        records.append(record(t_interval(reward[0::2] - reward[1::2], of_right), data=name, metric="margin"))
    sides = {"chosen": completions.desirable, "rejected": ~completions.desirable}
    for side, kind in sides.items():
        if kind.any():
            records.append(record(t_interval(logp[kind], question[kind]), data=side, metric="logp"))
    return records


def sample_completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    accelerator: Accelerator,
    *,
    max_new_tokens: int,
) -> list[SampledCompletions]:
    """One completion of each prompt at temperature 1; the same random numbers in every run."""
    mine = local_shard(list(enumerate(prompts)), accelerator)
    with accelerator.autocast():
        sampled = sample(
            model,
            [prompt for _, prompt in mine],
            completions=1,
            max_new_tokens=max_new_tokens,
            end_tokens=end_tokens(tokenizer),
            keys=[of_samples(i) for i, _ in mine],
        )
    return gather(sampled, accelerator)


def evaluate_samples(
    prompts: Sequence[Sequence[int]], written: Sequence[SampledCompletions], reference: Reference | None
) -> list[dict[str, Any]]:
    """KL(policy || initial model) of whole completions, in nats, and their length: eval.jsonl records.

    KL by k1, the mean of logp - logp_ref over completions that the policy sampled: unbiased, and for whole completions
    its interval is honest, where that of k3 hides behind a heavy tail.
    """
    length = torch.tensor([float(len(one.tokens[0])) for one in written])
    records = [record(t_interval(length), data=SAMPLES, metric="length")]
    if reference is not None:
        groups = [Group(prompt, one.tokens) for prompt, one in zip(prompts, written, strict=True)]
        logp = torch.tensor([sum(one.logp[0]) for one in written])
        logp_ref = torch.tensor(reference.initial_logp(groups)).squeeze(1)
        records.append(record(t_interval(logp - logp_ref), data=SAMPLES, metric="kl"))
    return records


def as_sample(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], one: SampledCompletions) -> dict[str, Any]:
    """For samples.jsonl. Where nobody judges, its number is its log-probability."""
    logp = sum(one.logp[0])
    return {
        "prompt": str(tokenizer.decode(list(prompt), skip_special_tokens=True)),
        "completion": decode(tokenizer, one.tokens[0]),
        "reward": {"logp": logp},
        "total": logp,
    }
