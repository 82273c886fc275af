"""Held-out accuracy on tasks with a verifier, or the mean reward on tasks without, with its 95 % interval."""

from collections.abc import Callable, Sequence
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.data.answers import Answer, text_of
from rlhf.distributed import gather, local_shard
from rlhf.generate.answers import sample_answers
from rlhf.random_keys import of_evaluation
from rlhf.statistics import record, t_interval, wilson_of
from rlhf.tasks.problem import Problem, Task, messages_for

# Problems with completions of each -> one number for each completion.
type Reward = Callable[[Sequence[tuple[Problem, Sequence[Answer]]]], list[float]]


def evaluate_task(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    problems: Sequence[Problem],
    accelerator: Accelerator,
    *,
    max_new_tokens: int,
    greedy: bool,
    reward: Reward | None = None,
    system_prompt: str | None = None,
    stop_at: str = "end",
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> dict[str, Any]:
    """Accuracy with one completion for each problem: an eval.jsonl record without its step. Of a task without reference
    answers it is the mean `reward`, with the t-interval over problems.

    The record names a temperature, top_k or top_p that is not 1, 0 or 1. Its `unverified` counts the answers for which
    the verifier failed or timed out; they count as wrong.

    Args:
        reward: what a completion of each problem is paid; of a task that `verifies` it is not asked.
        greedy: take the most likely token instead of sampling.
        stop_at: "end", or "answer" to verify the text up to the first </answer>.
        temperature, top_k, top_p: those of training, because that policy is the one that is optimized.
    """
    indexed = local_shard(list(enumerate(problems)), accelerator)
    with accelerator.autocast():
        answered = sample_answers(
            model,
            tokenizer,
            [messages_for(problem, system_prompt) for _, problem in indexed],
            completions=1,
            keys=[of_evaluation(i) for i, _ in indexed],
            max_new_tokens=max_new_tokens,
            stop_at=stop_at,
            temperature=0.0 if greedy else temperature,
            top_k=0 if greedy else top_k,
            top_p=1.0 if greedy else top_p,
        )
    answers = [answer for (answer,) in answered]
    asked = [problem for _, problem in indexed]
    unverified = 0
    if task.verifies:
        verdicts = gather([task.verify(*it) for it in zip(asked, map(text_of, answers), strict=True)], accelerator)
        exact = [verdict.exact for verdict in verdicts if verdict is not None]
        result = proportion(sum(exact), len(exact), data=task.name, metric="accuracy_greedy" if greedy else "accuracy")
        unverified = sum(bool(verdict.failed) for verdict in verdicts if verdict is not None)
    else:
        assert reward is not None, "a task without reference answers is evaluated by its reward"
        paid = gather(reward([(problem, [it]) for problem, it in zip(asked, answers, strict=True)]), accelerator)
        result = record(t_interval(paid), data=task.name, metric="reward_greedy" if greedy else "reward")
    plain = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
    used = {"temperature": temperature, "top_k": top_k, "top_p": top_p} if not greedy else plain
    changed = {key: value for key, value in used.items() if value != plain[key]}
    return result | changed | ({"unverified": unverified} if unverified else {})


def proportion(successes: float, n: int, *, data: str, metric: str) -> dict[str, Any]:
    """A proportion of n independent problems with its Wilson interval: an eval.jsonl record without its step."""
    return record(wilson_of(successes / n, n), data=data, metric=metric)
