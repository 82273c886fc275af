"""Held-out accuracy on tasks that can be checked, with its 95 % interval."""

from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.distributed import gather, share
from rlhf.random_keys import of_evaluation
from rlhf.sampling import sample
from rlhf.statistics import record, wilson_of
from rlhf.tasks.problem import Problem, Task
from rlhf.text.chat import Message, decode, encode_prompt, end_tokens, length_up_to


def messages_for(problem: Problem, system_prompt: str | None) -> list[Message]:
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*system, {"role": "user", "content": problem.question}]


def evaluate_task(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    problems: Sequence[Problem],
    accelerator: Accelerator,
    *,
    max_new_tokens: int,
    greedy: bool,
    system_prompt: str | None = None,
    stop_at: str = "end",
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> dict[str, Any]:
    """One completion a problem, from the policy as it is trained, or greedy; an eval.jsonl record less its step.

    `temperature`, `top_k`, `top_p`: those of training, for that is the policy that is optimized. The record names those
    that are not 1, 0 and 1, with which the model itself is sampled.

    `unverified` in it counts answers at which the verifier failed or took too long; they are among the wrong ones.

    `stop_at`: "end", or "answer" to judge what was said up to the first </answer>.
    """
    indexed = share(list(enumerate(problems)), accelerator)
    with accelerator.autocast():
        sampled = sample(
            model,
            [encode_prompt(tokenizer, messages_for(problem, system_prompt)) for _, problem in indexed],
            completions=1,
            max_new_tokens=max_new_tokens,
            end_tokens=end_tokens(tokenizer),
            keys=[of_evaluation(i) for i, _ in indexed],
            temperature=0.0 if greedy else temperature,
            top_k=0 if greedy else top_k,
            top_p=1.0 if greedy else top_p,
        )
    said = [one.tokens[0] for one in sampled]
    if stop_at == "answer":
        said = [tokens[: length_up_to(tokenizer, tokens, "</answer>")] for tokens in said]
    texts = [decode(tokenizer, tokens) for tokens in said]
    verdicts = [task.verify(problem, text) for (_, problem), text in zip(indexed, texts, strict=True)]
    verdicts = gather(verdicts, accelerator)
    exact = [verdict.exact for verdict in verdicts]
    result = proportion(sum(exact), len(exact), data=task.name, metric="accuracy_greedy" if greedy else "accuracy")
    unverified = sum(bool(verdict.failed) for verdict in verdicts)
    plain = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
    drawn = {"temperature": temperature, "top_k": top_k, "top_p": top_p} if not greedy else plain
    named = {key: value for key, value in drawn.items() if value != plain[key]}
    return result | named | ({"unverified": unverified} if unverified else {})


def proportion(successes: float, n: int, *, data: str, metric: str) -> dict[str, Any]:
    """A share of n independent problems with its Wilson interval: an eval.jsonl record less its step."""
    return record(wilson_of(successes / n, n), data=data, metric=metric)
