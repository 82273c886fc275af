"""Several answers of a policy to each problem, verified: the data that reward models and direct alignment learn from.

Sampled once: the tokens are cached under a hash of the policy's weights, the problems and the settings of sampling.
Texts and verdicts are not cached, since decoding and verifying cost little, and verifiers change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, Protocol, runtime_checkable

import torch
from transformers import PreTrainedTokenizerBase

from rlhf.cache import cached, fingerprint, key
from rlhf.data.answers import Answer, sampled_answer
from rlhf.data.preferences import Ranking
from rlhf.distributed import open_device
from rlhf.models.policy import choose_precision, load, load_tokenizer
from rlhf.random_keys import of_candidates
from rlhf.sampling import sample
from rlhf.tasks.encoding import encode_problem
from rlhf.tasks.problem import Problem, Task, Verdict, messages_for
from rlhf.text.chat import end_tokens

type Noise = Literal["swap", "longer"]


@runtime_checkable
class Verifier(Protocol):
    """What can tell right from wrong: a `Task`, or anything like it."""

    def verify(self, problem: Problem, completion: str) -> Verdict | None: ...


@dataclass(frozen=True)
class Candidates:
    """Answers to one problem, in the order they were sampled in, each with its verdict."""

    problem: Problem
    answers: list[Answer]
    verdicts: list[Verdict | None]  # None: there is no reference answer

    @property
    def judged(self) -> list[tuple[Answer, Verdict]]:
        """The answers that have a verdict."""
        pairs = zip(self.answers, self.verdicts, strict=True)
        return [(answer, verdict) for answer, verdict in pairs if verdict is not None]

    @property
    def texts(self) -> list[str]:
        return [answer.text for answer in self.answers]


def distinct_problems(task: Task, *, seed: int, count: int) -> list[Problem]:
    """The first `count` training problems of a task, each once: fewer where its stream repeats some."""
    drawn = task.train_problems(seed=seed, first=0, count=count)
    return list({problem.question: problem for problem in drawn}.values())


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
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> list[Candidates]:
    """`count` completions of each problem, sampled from the model and verified.

    Args:
        tokenizer: the model's, with the chat template of a run; None: as the model has it.
    """
    questions = [problem.question for problem in problems]
    tokenizer = tokenizer or load_tokenizer(model_name)
    ends = end_tokens(tokenizer)
    prompts = [encode_problem(tokenizer, problem, system_prompt) for problem in problems]
    how = [count, max_new_tokens, seed, temperature, ends]
    entry = key(fingerprint(model_name), questions, prompts, how, "candidates 3")

    def make() -> tuple[torch.Tensor, torch.Tensor]:
        device = open_device("auto")
        model, _ = load(model_name, tokenizer=tokenizer)
        model.to(device)
        bf16 = device.type == "cuda" and choose_precision("auto", device) == "bf16"
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            sampled = sample(
                model,
                prompts,
                completions=count,
                max_new_tokens=max_new_tokens,
                end_tokens=ends,
                keys=[of_candidates(seed, i, question) for i, question in enumerate(questions)],
                temperature=temperature,
            )
        completions = [tokens for one in sampled for tokens in one.tokens]
        flat = torch.tensor([token for tokens in completions for token in tokens], dtype=torch.int32)
        return flat, torch.tensor([len(tokens) for tokens in completions])

    flat, lengths = cached("candidates", entry, make)
    answers = [sampled_answer(tokenizer, tokens.tolist()) for tokens in flat.split(lengths.tolist())]
    candidates = []
    for i, problem in enumerate(problems):
        own = answers[i * count : (i + 1) * count]
        candidates.append(Candidates(problem, own, [task.verify(problem, answer.text) for answer in own]))
    return candidates


def to_rankings(
    candidates: Sequence[Candidates],
    *,
    seed: int,
    per_problem: int = 1,
    label_noise: float = 0.0,
    noise: Noise = "swap",
) -> list[Ranking]:
    """Pairs of a right and a wrong completion of the same problem, at most `per_problem` different ones of each.

    Problems whose completions are all right or all wrong give none. What a pair looks like depends on `seed` and the
    question alone.

    Args:
        label_noise: the probability that a pair is labelled without a look at what is right, as annotators do.
        noise: how it is labelled then. `swap`: the wrong completion is chosen; `longer`: the longer one is, and of two
            of one length the right one.
    """
    rankings = []
    for one in candidates:
        judged = [(answer, verdict.exact) for answer, verdict in one.judged if answer.text.strip()]
        right, wrong = (list(dict.fromkeys(a for a, its in judged if its == exact)) for exact in (1.0, 0.0))
        pairs = [(a, b) for a in right for b in wrong]
        rng = Random(f"{seed} {one.problem.question}")
        for chosen, rejected in rng.sample(pairs, min(per_problem, len(pairs))):
            would_swap = noise == "swap" or len(rejected.text) > len(chosen.text)
            if rng.random() < label_noise and would_swap:
                chosen, rejected = rejected, chosen
            rankings.append(Ranking.of_answers(messages_for(one.problem, None), [chosen, rejected]))
    return rankings
