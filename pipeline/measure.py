"""What a policy is worth and how far it went: gold and proxy reward, and KL(policy || start), on held-out problems.

All optimizers are measured in this one way, afterwards, from their checkpoints. For every held-out problem a completion
is sampled at temperature 1, with the same random numbers for every policy.

    gold     1 if the verifier calls it right, else 0
    proxy    the score of the reward model that was optimized
    kl       sum over the completion's tokens of KL(pi(. | prefix) || pi_start(. | prefix)): see rlhf/evaluate/kl.py

Best-of-n is measured from `best_of` completions of the start, exactly over all subsets of n. Its KL is log n - (n-1)/n,
which is a bound where completions have equal scores.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from safetensors.torch import load_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.cache import cached, fingerprint, key
from rlhf.candidates import sample_candidates
from rlhf.cpu.tune import tune_cpu
from rlhf.data.answers import sampled_answer
from rlhf.distributed import open_device
from rlhf.errors import UserError
from rlhf.evaluate.kl import exact_kl
from rlhf.groups import Group
from rlhf.logprobs import Scorer
from rlhf.models.policy import load
from rlhf.models.reward_model import Combine, RewardModel
from rlhf.random_keys import of_samples
from rlhf.sampling import sample
from rlhf.tasks.encoding import encode_problem
from rlhf.tasks.problem import Problem, Task, messages_for
from rlhf.tasks.registry import open_task
from rlhf.text.chat import end_tokens

SHOWN = 40  # completions that are kept to look at


@dataclass(frozen=True)
class Proxy:
    """The reward model of an optimizer: one, or an ensemble."""

    members: tuple[str, ...]
    combine: Combine = "mean"

    @property
    def fingerprint(self) -> list[str]:
        return [self.combine, *map(fingerprint, self.members)]


@dataclass(frozen=True)
class Job:
    """A policy to measure: the start, the checkpoint of a run, or best-of-n from the start."""

    line: str
    seed: int
    step: int
    start: str  # the model's name
    proxy: Proxy
    task: str
    task_config: dict[str, Any] = field(hash=False)
    problems: int
    max_new_tokens: int
    checkpoint: str | None = None  # None: the start itself
    completions: int = 1  # of each problem


def measure_all(jobs: Sequence[Job], *, at_once: int) -> list[dict[str, Any]]:
    """`measure` of each job, so many at a time, each in a process of its own."""
    with ProcessPoolExecutor(at_once, mp_context=get_context("spawn"), initializer=tune_cpu) as pool:
        return list(pool.map(measure, jobs))


def measure(job: Job) -> dict[str, Any]:
    """Lists by problem: `gold`, `proxy`, `kl` and `length`, and some `samples`; with several completions of each
    problem, lists of lists, and no `kl`. Computed once for the same weights, problems and reward models."""
    what = asdict(job)
    named = {"start": fingerprint(job.start), "proxy": job.proxy.fingerprint, "checkpoint": _digest(job.checkpoint)}
    entry = key("measured 1", {name: what[name] for name in what.keys() - {"line", "step"}} | named)
    return cached("measured", entry, lambda: _measure_policy(job) if job.completions == 1 else _measure_start(job))


def _weights(checkpoint: str) -> list[Path]:
    """The files of weights in a checkpoint: the policy's, and before or behind it those of a critic."""
    return sorted(Path(checkpoint).glob("model*.safetensors"))


def _digest(checkpoint: str | None) -> list[str]:
    digests = []
    for file in _weights(checkpoint) if checkpoint else ():
        with file.open("rb") as weights:
            digests.append(hashlib.file_digest(weights, "sha256").hexdigest())
    return digests


def _measure_policy(job: Job) -> dict[str, Any]:
    """A completion of every problem, by the policy."""
    task, problems = _held_out(job)
    policy, start, tokenizer = _load(job)
    prompts = [encode_problem(tokenizer, problem, None) for problem in problems]
    sampled = sample(
        policy,
        prompts,
        completions=1,
        max_new_tokens=job.max_new_tokens,
        end_tokens=end_tokens(tokenizer),
        keys=[of_samples(i) for i in range(len(prompts))],
    )
    answers = [sampled_answer(tokenizer, one.tokens[0]) for one in sampled]
    groups = [Group(prompt, one.tokens) for prompt, one in zip(prompts, sampled, strict=True)]
    asked = [(messages_for(problem, None), [answer]) for problem, answer in zip(problems, answers, strict=True)]
    return {
        "gold": [_gold(task, problem, answer.text) for problem, answer in zip(problems, answers, strict=True)],
        "proxy": [score for (score,) in _open(job.proxy).score(asked)],
        "kl": exact_kl(policy, start, groups).tolist() if job.checkpoint else [0.0] * len(groups),
        "length": [float(len(answer.tokens)) for answer in answers],
        "samples": [
            [problem.question, answer.text] for problem, answer in zip(problems[:SHOWN], answers[:SHOWN], strict=True)
        ],
    }


def _measure_start(job: Job) -> dict[str, Any]:
    """Several completions of every problem by the start, for best-of-n: lists of lists."""
    task, problems = _held_out(job)
    candidates = sample_candidates(
        job.start, task, problems, count=job.completions, max_new_tokens=job.max_new_tokens, seed=job.seed
    )
    scores = _open(job.proxy).score([(messages_for(one.problem, None), one.answers) for one in candidates])
    return {
        "gold": [[_gold(task, one.problem, answer.text) for answer in one.answers] for one in candidates],
        "proxy": scores,
    }


def _held_out(job: Job) -> tuple[Task, list[Problem]]:
    task = open_task(job.task, job.task_config, answer_in="think_tags")
    return task, task.held_out_problems(job.problems)


def _gold(task: Task, problem: Problem, text: str) -> float:
    verdict = task.verify(problem, text)
    assert verdict is not None, "the chain refuses a task that verifies nothing"
    return verdict.exact


@cache
def _open(proxy: Proxy) -> RewardModel:
    return RewardModel(list(proxy.members), combine=proxy.combine)


@cache
def _start(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model, tokenizer = load(name)
    return model.to(open_device("auto")).requires_grad_(False), tokenizer


def _load(job: Job) -> tuple[PreTrainedModel, PreTrainedModel, PreTrainedTokenizerBase]:
    """The policy, the start, and their tokenizer.

    Raises:
        UserError: the checkpoint holds something else than all weights of the policy, such as adapters.
    """
    start, tokenizer = _start(job.start)
    if job.checkpoint is None:
        return start, start, tokenizer
    policy = deepcopy(start)
    for file in _weights(job.checkpoint):
        missing, unexpected = load_model(Scorer(policy), file, strict=False)  # as trained
        if not missing and not unexpected:
            return policy, start, tokenizer
    raise UserError(
        f"'{job.checkpoint}' does not hold the weights of '{job.start}'",
        hint="The chain measures policies of which all weights are trained: lora_rank 0.",
    )
