"""Held-out measurements: what the policy prefers, and what it writes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from scipy.stats import norm
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from direct_alignment.batches import compare, count, score_all
from direct_alignment.data import Example
from direct_alignment.diagnostics import implicit_reward, ranked_right
from direct_alignment.losses import Loss
from direct_alignment.reference import Reference
from rlhf.chat import decode, end_tokens
from rlhf.evaluation import EVALUATION_KEY, proportion
from rlhf.groups import Group, Layout
from rlhf.loop import gather, share
from rlhf.sampling import Sampled, sample
from rlhf.scoring import Scorer

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
    right = ranked_right(reward, completions.desirable, pairs=pairs)
    value = loss(completions, **settings).sum() / count(loss, examples)
    name = PAIRS if pairs else "held-out completions"
    sides = {"chosen": completions.desirable, "rejected": ~completions.desirable}
    return [
        proportion(float(right.sum()), len(right), data=name, metric="reward_accuracy"),
        {"data": name, "metric": "loss", "value": float(value), "n": len(right)},
        *([average(reward[0::2] - reward[1::2], data=name, metric="margin")] if pairs else []),
        *(average(logp[kind], data=side, metric="logp") for side, kind in sides.items() if kind.any()),
    ]


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
            keys=[(EVALUATION_KEY, 1, i) for i, _ in mine],
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
    records = [average(length, data=SAMPLES, metric="length")]
    if reference is not None:
        groups = [Group(prompt, one.tokens) for prompt, one in zip(prompts, written, strict=True)]
        logp = torch.tensor([sum(one.logp[0]) for one in written])
        logp_ref = torch.tensor(reference.initial_logp(groups)).squeeze(1)
        records.append(average(logp - logp_ref, data=SAMPLES, metric="kl"))
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


def average(values: Tensor, *, data: str, metric: str) -> dict[str, Any]:
    """A mean with its normal 95 % interval over the n values."""
    values = values.double()
    n = len(values)
    half = float(norm.ppf(0.975)) * float(values.std()) / n**0.5 if n > 1 else 0.0
    mean = float(values.mean())
    return {"data": data, "metric": metric, "value": mean, "n": n, "low": mean - half, "high": mean + half}
