"""What the final policy of a run is measured by, on the held-out problems of any task."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf.data.answers import Answer
    from rlhf.tasks.problem import Problem, Task

PROBLEMS = 200
LONGEST = 64  # tokens


def accuracy(task: str, *, greedy: bool = False) -> Callable[[Path], float]:
    """Share of the problems that are answered right, with one answer each. `greedy`: the most likely one."""

    def found(run: Path) -> float:
        opened, problems = _held_out(task)
        answers = _answers(run, task, greedy=greedy)
        verdicts = [opened.verify(problem, answer.text) for problem, answer in zip(problems, answers, strict=True)]
        return sum(verdict is not None and verdict.exact == 1 for verdict in verdicts) / len(verdicts)

    return found


def kl(task: str) -> Callable[[Path], float]:
    """KL(policy || start) of completions, nats."""

    def found(run: Path) -> float:
        from rlhf.evaluate.kl import exact_kl
        from rlhf.groups import Group
        from rlhf.tasks.encoding import encode_problem

        (policy, tokenizer), (start, _) = _load(run), _load(Path("embedded"))
        _, problems = _held_out(task)
        answers = _answers(run, task, greedy=False)
        prompts = [encode_problem(tokenizer, problem, None) for problem in problems]
        groups = [Group(prompt, [list(answer.tokens)]) for prompt, answer in zip(prompts, answers, strict=True)]
        return float(exact_kl(policy, start, groups).mean())

    return found


@cache
def _held_out(task: str) -> "tuple[Task, list[Problem]]":
    from rlhf.tasks.registry import open_task

    opened = open_task(task, {}, answer_in="think_tags")
    return opened, opened.held_out_problems(PROBLEMS)


@cache
def _answers(run: Path, task: str, *, greedy: bool) -> "list[Answer]":
    """One answer to each problem, with the same random numbers for every policy."""
    from rlhf.generate.answers import sample_answers
    from rlhf.random_keys import of_evaluation
    from rlhf.tasks.problem import messages_for

    model, tokenizer = _load(run)
    _, problems = _held_out(task)
    answered = sample_answers(
        model,
        tokenizer,
        [messages_for(problem, None) for problem in problems],
        completions=1,
        keys=[of_evaluation(i) for i in range(len(problems))],
        max_new_tokens=LONGEST,
        temperature=0.0 if greedy else 1.0,
    )
    return [answer for (answer,) in answered]


@cache
def _load(run: Path) -> Any:
    """The final policy of a run and its tokenizer; `embedded` is the start."""
    from rlhf.distributed import open_device
    from rlhf.models.policy import load

    open_device("cpu")
    return load(str(run))
