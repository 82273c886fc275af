"""Several answers of a policy to each problem, verified: the data that reward models and direct alignment learn from.

Sampled once: the texts are cached under a hash of the policy's weights, the problems and the settings of sampling.
Verdicts are not cached, since verifying costs little and verifiers change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol, runtime_checkable

import torch

from rlhf.cache import cached, fingerprint, key
from rlhf.chat import Message, decode, encode_prompt, end_tokens
from rlhf.evaluation import messages_for
from rlhf.loop import open_device
from rlhf.models import choose_precision, load
from rlhf.preferences import Ranking
from rlhf.sampling import sample
from rlhf.tasks import Problem, Verdict

# Sets these random numbers apart from those of training and evaluation, whose keys begin otherwise.
CANDIDATES_KEY = 2**33


@runtime_checkable
class Verifier(Protocol):
    """What can tell right from wrong: a `Task`, or anything like it."""

    def verify(self, problem: Problem, completion: str) -> Verdict: ...


@dataclass(frozen=True)
class Candidates:
    """Answers to one problem, in the order they were sampled in, each with its verdict."""

    problem: Problem
    texts: list[str]
    verdicts: list[Verdict]


def sample_candidates(
    model_name: str,
    task: Verifier,
    problems: Sequence[Problem],
    *,
    count: int,
    max_new_tokens: int,
    seed: int,
    temperature: float = 1.0,
    system_prompt: str | None = None,
) -> list[Candidates]:
    """`count` completions of each problem, sampled from the model and verified."""
    questions = [problem.question for problem in problems]
    entry = key(
        fingerprint(model_name), questions, count, max_new_tokens, seed, temperature, system_prompt, "candidates 1"
    )

    def make() -> list[list[str]]:
        device = open_device("auto")
        model, tokenizer = load(model_name)
        model.to(device)
        prompts = [encode_prompt(tokenizer, messages_for(problem, system_prompt)) for problem in problems]
        bf16 = device.type == "cuda" and choose_precision("auto", device) == "bf16"
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            sampled = sample(
                model,
                prompts,
                completions=count,
                max_new_tokens=max_new_tokens,
                end_tokens=end_tokens(tokenizer),
                keys=[(CANDIDATES_KEY, seed, i) for i in range(len(prompts))],
                temperature=temperature,
            )
        return [[decode(tokenizer, tokens) for tokens in one.tokens] for one in sampled]

    texts = cached("candidates", entry, make)
    return [
        Candidates(problem, own, [task.verify(problem, text) for text in own])
        for problem, own in zip(problems, texts, strict=True)
    ]


def to_rankings(candidates: Sequence[Candidates], *, seed: int, per_problem: int = 1) -> list[Ranking]:
    """Pairs of a right and a wrong completion of the same problem, at most `per_problem` different ones of each.

    Problems whose completions are all right or all wrong give none. What a pair looks like depends on `seed` and the
    question alone.
    """
    rankings = []
    for one in candidates:
        right, wrong = (
            list(
                dict.fromkeys(t for t, v in zip(one.texts, one.verdicts, strict=True) if v.exact == exact and t.strip())
            )
            for exact in (1.0, 0.0)
        )
        pairs = [(a, b) for a in right for b in wrong]
        rng = Random(f"{seed} {one.problem.question}")
        for chosen, rejected in rng.sample(pairs, min(per_problem, len(pairs))):
            answers: list[list[Message]] = [[{"role": "assistant", "content": text}] for text in (chosen, rejected)]
            rankings.append(Ranking([{"role": "user", "content": one.problem.question}], answers, None))
    return rankings
