"""Held-out measurements: what the policy prefers, and what it writes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from direct_alignment.data import Example
from direct_alignment.diagnostics import implicit_reward, judged_right
from direct_alignment.log_ratios import compare, count, score_all
from direct_alignment.losses import Loss
from direct_alignment.reference import Reference
from rlhf.distributed import gather, share
from rlhf.groups import Group, Layout
from rlhf.logprobs import Scorer
from rlhf.random_keys import of_samples
from rlhf.sampling import Sampled, sample
from rlhf.statistics import record, t_interval, wilson
from rlhf.text.chat import decode, end_tokens

PAIRS, SAMPLES = "held-out pairs", "samples"


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
    sums = score_all(scorer, [example.group for example in examples], accelerator, layout)
    logp = torch.tensor([x for own in sums for x in own])
    length = torch.tensor([float(sum(counts)) for example in examples for counts in example.group.counts])
    s_mismatched = mismatched(scorer, examples, accelerator, layout).cpu() if "mismatched" in loss.needs else None
    completions = compare(logp, length, examples, s_mismatched)
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


def mismatched(
    scorer: Scorer, examples: Sequence[Example], accelerator: Accelerator, layout: Layout
) -> Tensor:  # (k,), nats
    """Log-ratios of completions under prompts of others, of all processes' examples."""
    groups = [example.mismatched for example in examples if example.mismatched is not None]
    logp = score_all(scorer, groups, accelerator, layout)
    reference = [x for example in examples for x in example.logp_ref_mismatched or ()]
    return torch.tensor([x for own in logp for x in own], device=accelerator.device) - torch.tensor(
        reference, device=accelerator.device
    )


def write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    accelerator: Accelerator,
    *,
    max_new_tokens: int,
) -> list[Sampled]:
    """One completion of each prompt at temperature 1; the same random numbers in every run."""
    mine = share(list(enumerate(prompts)), accelerator)
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
    prompts: Sequence[Sequence[int]], written: Sequence[Sampled], reference: Reference | None
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


def as_sample(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], one: Sampled) -> dict[str, Any]:
    """For samples.jsonl. Where nobody judges, its number is its log-probability."""
    logp = sum(one.logp[0])
    return {
        "prompt": str(tokenizer.decode(list(prompt), skip_special_tokens=True)),
        "completion": decode(tokenizer, one.tokens[0]),
        "reward": {"logp": logp},
        "total": logp,
    }
