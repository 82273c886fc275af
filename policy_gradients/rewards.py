"""Completions to rewards. The parts are kept apart, so that a policy that games one of them can be seen doing it.

A part of your own is a function in a file, given in the config as `reward_functions: {path/to/file.py:brevity: 0.1}`:

    def brevity(question: str, completion: str, answer: str) -> float:
        return -len(completion) / 100
"""

import math
import sys
from collections.abc import Callable, Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from policy_gradients.config import RewardWeights
from rlhf.errors import UserError, nearest
from rlhf.mixture import Questions
from rlhf.tasks import Problem, Verdict

RewardFunction = Callable[[str, str, str], float]  # question, completion, answer


class Judge:
    """Verdicts of the task, the user's own functions, and their weighted sum."""

    def __init__(self, task: Questions, weights: RewardWeights, functions: Mapping[str, float]):
        self.task, self.weights = task, weights
        names = [*RewardWeights.model_fields, *(spec.rsplit(":", 1)[-1] for spec in functions)]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"reward_functions: '{name}' is the name of another part of the reward already")
        self.functions = {spec.rsplit(":", 1)[-1]: (load_function(spec), weight) for spec, weight in functions.items()}

    def parts(self, problem: Problem, completion: str) -> dict[str, float]:
        """Every part by name, unweighted: exact, format, partial, and each function."""
        verdict: Verdict = self.task.verify(problem, completion)
        own = {
            name: _number(name, function(problem.question, completion, problem.answer))
            for name, (function, _) in self.functions.items()
        }
        return {"exact": verdict.exact, "format": verdict.format, "partial": verdict.partial, **own}

    def weigh(self, parts: Mapping[str, float]) -> float:
        weights = self.weights.model_dump() | {name: weight for name, (_, weight) in self.functions.items()}
        return sum(weights[name] * value for name, value in parts.items())


def load_function(spec: str) -> RewardFunction:
    """`file.py:function`.

    Raises:
        UserError: there is no such file or function, or the file does not run.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file)
    if not name or path.suffix != ".py":
        raise UserError(f"reward_functions: '{spec}' is not of the form file.py:function")
    if not path.is_file():
        raise UserError(f"reward_functions: there is no file '{file}'")
    module_spec = spec_from_file_location(f"reward_functions.{path.stem}", path)
    assert module_spec is not None  # of a .py file there is always one
    assert module_spec.loader is not None
    module = module_from_spec(module_spec)
    sys.modules[module.__name__] = module  # dataclasses and pickle look themselves up there
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"reward_functions: {file} does not run: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"reward_functions: {file} has no function '{name}': {nearest(name, functions)}")
    return function


def _number(name: str, value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"reward_functions: {name} returned {value!r}, wanted a finite number")
    return float(value)


def overlong_penalty(length: int, *, max_new_tokens: int, overlong_buffer: float) -> float:
    """0 up to (1 - overlong_buffer) * max_new_tokens, then linear to 1 at max_new_tokens. DAPO, eq. 13.

    A buffer of 0 charges 1 at max_new_tokens and nothing before.
    """
    if length >= max_new_tokens:
        return 1.0
    free = (1 - overlong_buffer) * max_new_tokens
    return max(0.0, (length - free) / max(1.0, max_new_tokens - free))
