"""Rewards of completions. The components are kept, so that a policy that games one of them can be seen doing it.

The components are the verdict of the task, where it has reference answers, the score of a trained reward model
(`reward_model: runs/NAME`), and your own functions and rubrics (`reward_functions: {path/to/file.py:brevity: 0.1,
rubric.yaml: 1}`, see `reward_functions.py`). The reward is their weighted sum.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from policy_gradients.config import PolicyGradientConfig, RewardWeights
from policy_gradients.reward_functions import evaluate, load_functions, names_of
from rlhf.data.answers import text_of
from rlhf.errors import UserError
from rlhf.evaluate.reward_model import Answered, RewardModelScore, load_reward_model
from rlhf.tasks.problem import Problem, Task, refuse_unverified

UNVERIFIED = "unverified"  # 1 where the verifier failed or took too long, so that the completion counts as wrong


class RewardFunction:
    """The weighted sum of the task's verdict, a reward model's score and the user's own functions."""

    def __init__(
        self,
        task: Task,
        weights: RewardWeights,
        functions: Mapping[str, float],
        reward_model: RewardModelScore | None = None,
    ):
        self.task = task
        self.reward_model = reward_model
        if weights.exact is None:
            weights = weights.model_copy(update={"exact": 1.0 if reward_model is None else 0.0})
        names = [*RewardWeights.model_fields, UNVERIFIED, *names_of(functions)]
        for name in names:
            if names.count(name) > 1:
                raise UserError(
                    f"reward_functions: '{name}' is the name of another component of the reward already",
                    hint="Give the function another name.",
                )
        self.functions = load_functions(functions)
        self.weights = weights.model_dump() | {name: function.weight for name, function in self.functions.items()}

    def components(self, answered: Sequence[Answered]) -> list[list[dict[str, float]]]:
        """The components of every completion; your functions and a reward model are asked for all of them at once."""
        components = [[self.of_text(problem, text_of(it)) for it in answers] for problem, answers in answered]
        each = [completion for group in components for completion in group]
        sampled = [(problem, answer) for problem, answers in answered for answer in answers]
        for name, values in evaluate(self.functions.values(), sampled).items():
            for completion, value in zip(each, values, strict=True):
                completion[name] = value
        if self.reward_model is not None:
            for group, scores in zip(components, self.reward_model(answered), strict=True):
                for completion, score in zip(group, scores, strict=True):
                    completion["model"] = score
        return components

    def of_text(self, problem: Problem, completion: str) -> dict[str, float]:
        """What the task says of one completion, by name; nothing where there is no reference answer."""
        verdict = self.task.verify(problem, completion)
        if verdict is None:
            return {}
        return {
            "exact": verdict.exact,
            "format": verdict.format,
            "partial": verdict.partial,
            UNVERIFIED: float(bool(verdict.failed)),
        }

    def total(self, components: Mapping[str, float]) -> float:
        """The weighted sum of a completion's components."""
        return sum(self.weights[name] * value for name, value in components.items() if name != UNVERIFIED)

    def totals(self, answered: Sequence[Answered]) -> list[float]:
        """The weighted sums of all completions."""
        return [self.total(completion) for group in self.components(answered) for completion in group]


def refuse_unrewarded(tasks: Mapping[str, Task], config: PolicyGradientConfig) -> None:
    """See that completions of every task can be rewarded, before anything is loaded.

    Raises:
        UserError: a function cannot be found, or asks for columns that the prompts do not have; or nothing rewards the
            completions of a task without reference answers, or `nll_coef` has no right ones to learn from.
    """
    functions = load_functions(config.reward_functions)
    if config.nll_coef and not any(task.verifies for task in tasks.values()):
        first = next(iter(tasks.values()))
        refuse_unverified(first, f"nll_coef (which is {config.nll_coef:g})", without="--nll_coef 0")
    for task in tasks.values():
        if config.length_penalty:
            refuse_unverified(task, "length_penalty", without="--length_penalty 0")
        (problem,) = task.train_problems(seed=config.seed, first=0, count=1)
        for function in functions.values():
            function.refuse_uncallable(problem)
        if not (task.verifies or functions or config.reward_models):
            raise UserError(
                f"task: {task.name} has no reference answers, so nothing rewards its completions",
                hint="Give reward_functions or a reward_model; or task_config: {match: number}, text or math, if the "
                "rows have answers.",
            )


def make_reward(task: Task, config: PolicyGradientConfig) -> RewardFunction:
    model = load_reward_model(config, system_prompt=config.system_prompt)
    return RewardFunction(task, config.reward_weights, config.reward_functions, model)


def length_penalties(lengths: Sequence[int], right: Sequence[bool], *, coef: float) -> list[float]:
    """coef * sigmoid((length - mean) / std) of a right completion, mean and std over the right ones; 0 of a wrong one.

    Success comes first: a right completion keeps at least 1 - coef of its 1, and a wrong one gains nothing by being
    short. Compared within a prompt, hard ones may take long. Where all right ones are of one length each pays coef / 2.
    Arora and Zanette, "Training Language Models to Reason Efficiently", 2025, arXiv 2502.04463; std is that of the
    group, with g in the denominator.

    >>> [round(x, 3) for x in length_penalties([10, 20, 5], [True, True, False], coef=0.4)]
    [0.108, 0.292, 0.0]
    """
    own = np.array([length for length, is_right in zip(lengths, right, strict=True) if is_right], dtype=float)
    if not len(own):
        return [0.0] * len(lengths)
    mean, std = own.mean(), own.std()
    z = [(length - mean) / std if std > 0 else 0.0 for length in lengths]
    return [coef / (1 + math.exp(-own_z)) if is_right else 0.0 for own_z, is_right in zip(z, right, strict=True)]


def overlong_penalty(length: int, *, max_new_tokens: int, overlong_buffer: float) -> float:
    """0 up to (1 - overlong_buffer) * max_new_tokens, then linear to 1 at max_new_tokens. DAPO, eq. 13.

    A buffer of 0 charges 1 at max_new_tokens and nothing before.

    >>> [overlong_penalty(n, max_new_tokens=10, overlong_buffer=0.5) for n in (5, 7, 10)]
    [0.0, 0.4, 1.0]
    """
    if length >= max_new_tokens:
        return 1.0
    free = (1 - overlong_buffer) * max_new_tokens
    return max(0.0, (length - free) / max(1.0, max_new_tokens - free))
