"""Reward components of the user: functions of a file or a module, loaded and checked before any model is loaded.

A function is given one completion or a whole batch, by the names of its parameters:

    def brevity(prompt, completion, answer) -> float: ...                # one completion
    def brevity(prompts, completions, answer, **kwargs) -> list[float]: ...    # a batch: TRL's form

`completion` is text; `prompt` is text, or the messages that the data have. A batch has lists, as TRL passes them: where
a prompt is messages, its completion is `[{"role": "assistant", "content": text}]`. Besides these a function may name
`question` (the prompt as text), `answer` (the reference, or ""), `completion_ids` (a batch's sampled tokens), and any
column of the data; `**kwargs` takes them all. It may be asynchronous: such calls are awaited together.

A rubric file (`{rubric.yaml: 1.0}`, see `rlhf/judges/rubric.py`) is a component for each of its criteria.
"""

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any

import torch
from accelerate import Accelerator

from policy_gradients.reward_loading import BATCH, FORMS, ONE, line_in, load_function, text_of_error, unchanged
from rlhf.data.answers import Answer, text_of
from rlhf.data.columns import short
from rlhf.distributed import all_reduce_sum
from rlhf.errors import UserError
from rlhf.judges.config import is_file, read_rubric
from rlhf.judges.rubric import CriterionReward, Rubric
from rlhf.tasks.problem import Problem

SHOWN = 80  # characters of a completion in a message

type Sampled = tuple[Problem, Answer | str]  # a problem with one completion


@dataclass(frozen=True)
class UserComponent:
    """A function of the user, with its weight in the sum."""

    source: str  # the file or the module
    name: str
    function: Callable[..., Any]
    weight: float

    @property
    def form(self) -> str:
        parameters = inspect.signature(self.function).parameters
        return ONE if ONE in parameters else BATCH

    def calls(self, sampled: Sequence[Sampled]) -> list[Callable[[], Any]]:
        """One call for each completion, or one for all."""
        if self.form == ONE:
            return [self._call(arguments_of_one(problem, answer), [(problem, answer)]) for problem, answer in sampled]
        return [self._call(arguments_of_batch(sampled), sampled)] if sampled else []

    def refuse_uncallable(self, problem: Problem) -> None:
        """See that the data have all that the function asks for.

        Raises:
            UserError: a parameter is no column of theirs.
        """
        one = self.form == ONE
        given = arguments_of_one(problem, "") if one else arguments_of_batch([(problem, "")])
        try:
            inspect.signature(self.function).bind(**self._taken(given))
        except TypeError as error:
            raise UserError(
                f"reward_functions: {self.name} in {self.source} takes {inspect.signature(self.function)}: {error}",
                hint=f"There are {', '.join(given)}. {FORMS}.",
            ) from error

    def rewards(self, returned: Sequence[Any], sampled: Sequence[Sampled]) -> list[float]:
        """The numbers of all completions, of what the calls returned.

        Raises:
            UserError: there are not as many, or one is none; with its row.
        """
        values = list(returned) if self.form == ONE else self._listed(returned, len(sampled))
        found = []
        for value, (problem, answer) in zip(values, sampled, strict=True):
            with self._blamed([(problem, answer)]):
                number = as_number(value)
            if number is None:
                raise UserError(
                    f"reward_functions: {self.name} returned {short(value)} for {_shown(problem, answer)}, wanted a "
                    f"finite number ({self.source})"
                )
            found.append(number)
        return found

    def _listed(self, returned: Sequence[Any], count: int) -> list[Any]:
        if not returned:
            return []
        (values,) = returned
        plain = values.tolist() if isinstance(values, torch.Tensor) else values
        if isinstance(plain, str | Mapping) or not hasattr(plain, "__len__"):
            raise UserError(
                f"reward_functions: {self.name} returned {short(values)}, wanted a list of {count} numbers, one a "
                f"completion ({self.source})"
            )
        if len(plain) != count:
            raise UserError(
                f"reward_functions: {self.name} returned {len(plain)} numbers for {count} completions ({self.source})"
            )
        return list(plain)

    def _call(self, arguments: Mapping[str, Any], sampled: Sequence[Sampled]) -> Callable[[], Any]:
        def call() -> Any:
            with self._blamed(sampled), unchanged():
                returned = self.function(**self._taken(arguments))
            return self._awaited(returned, sampled) if inspect.isawaitable(returned) else returned

        return call

    async def _awaited(self, returned: Awaitable[Any], sampled: Sequence[Sampled]) -> Any:
        with self._blamed(sampled):
            return await returned

    def _taken(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        parameters = inspect.signature(self.function).parameters.values()
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return dict(arguments)
        return {parameter.name: arguments[parameter.name] for parameter in parameters if parameter.name in arguments}

    @contextmanager
    def _blamed(self, sampled: Sequence[Sampled]) -> Generator[None]:
        """What the function raises, as an error that says where it is and for which completion."""
        try:
            yield
        except (KeyboardInterrupt, asyncio.CancelledError, UserError):
            raise
        except BaseException as error:  # sys.exit too: a reward function does not end a run without a word
            where = f"{self.name} in {self.source}{line_in(error, self.source)}"
            which = _shown(*sampled[0]) if len(sampled) == 1 else f"a batch of {len(sampled)} completions"
            raise UserError(f"reward_functions: {where} raised {text_of_error(error)} for {which}") from error


def arguments_of_one(problem: Problem, answer: Answer | str) -> dict[str, Any]:
    """What a function of one completion may ask for."""
    prompt = [dict(message) for message in problem.prompt] or problem.question
    return {
        **problem.columns,
        "prompt": prompt,
        "question": problem.question,
        "completion": text_of(answer),
        "answer": problem.answer,
    }


def arguments_of_batch(sampled: Sequence[Sampled]) -> dict[str, list[Any]]:
    """What a function of a batch may ask for, as TRL passes it: a list each, with an entry for every completion."""
    ones = [arguments_of_one(problem, answer) for problem, answer in sampled]
    columns = dict.fromkeys(name for one in ones for name in one if name not in ("prompt", "completion"))
    return {
        **{name: [one.get(name) for one in ones] for name in columns},
        "prompts": [one["prompt"] for one in ones],
        "completions": [
            one["completion"] if isinstance(one["prompt"], str) else [_said(one["completion"])] for one in ones
        ],
        "completion_ids": [list(answer.tokens) if isinstance(answer, Answer) else [] for _, answer in sampled],
    }


def _said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def evaluate(functions: Iterable[UserComponent], sampled: Sequence[Sampled]) -> dict[str, list[float]]:
    """The rewards of all completions by each function; what is asynchronous is awaited together.

    Raises:
        UserError: a function raises, whatever it is, or returns something else than finite numbers.
    """
    functions = list(functions)
    returned = [[call() for call in function.calls(sampled)] for function in functions]
    waiting = [value for values in returned for value in values if inspect.isawaitable(value)]
    done = iter(_together(waiting))
    returned = [[next(done) if inspect.isawaitable(value) else value for value in values] for values in returned]
    return {it.name: it.rewards(values, sampled) for it, values in zip(functions, returned, strict=True)}


def _together(waiting: Sequence[Awaitable[Any]]) -> list[Any]:
    async def gather() -> list[Any]:
        return await asyncio.gather(*waiting)

    if not waiting:
        return []
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        with unchanged():
            return asyncio.run(gather())
    with ThreadPoolExecutor(1) as pool:  # a notebook has a loop of its own
        return pool.submit(lambda: asyncio.run(gather())).result()


def as_number(value: object) -> float | None:
    """A finite number as a float: Python's, numpy's, or a tensor's or array's only element. None for anything else."""
    item = getattr(value, "item", None)
    try:
        plain = item() if callable(item) else value
        number = float(plain) if isinstance(plain, Real | Decimal) else math.nan
    except (ValueError, TypeError, OverflowError, RuntimeError):
        return None
    return number if math.isfinite(number) else None


def load_functions(weights: Mapping[str, float]) -> dict[str, UserComponent]:
    """The functions of `reward_functions` by name.

    Raises:
        UserError: as `load_function`.
    """
    return {name: it for spec, weight in weights.items() for name, it in _components(spec, weight).items()}


def _components(spec: str, weight: float) -> dict[str, UserComponent]:
    """A function; or the criteria of a rubric, which share its weight."""
    if not is_file(spec):
        source, _, name = spec.rpartition(":")
        return {name: UserComponent(source, name, load_function(spec), weight)}
    rubric = Rubric(read_rubric(spec, key="reward_functions"))
    shares = rubric.shares.items()
    return {name: UserComponent(spec, name, CriterionReward(rubric, name), weight * share) for name, share in shares}


def names_of(functions: Iterable[str]) -> list[str]:
    """The names of all components, also where two are the same."""
    return [name for spec in functions for name in _names(spec)]


def _names(spec: str) -> list[str]:
    return list(read_rubric(spec, key="reward_functions").rubric) if is_file(spec) else [spec.rsplit(":", 1)[-1]]


def judge_metrics(functions: Iterable[UserComponent], accelerator: Accelerator) -> dict[str, float]:
    """What the endpoints of rubrics have been asked so far, by all processes; nothing where there are none."""
    rewards = [it.function for it in functions if isinstance(it.function, CriterionReward)]
    rubrics = {id(reward.rubric): reward.rubric for reward in rewards if reward.rubric.config.url}
    counts = [usage.counts for rubric in rubrics.values() if (usage := rubric.chooser.usage)]
    if not counts:
        return {}
    sums = all_reduce_sum([sum(own[name] for own in counts) for name in counts[0]], accelerator)
    return {f"judge/{name}": total for name, total in zip(counts[0], sums, strict=True)}


def _shown(problem: Problem, answer: Answer | str) -> str:
    """A completion, and whose row it is where that is known."""
    text = text_of(answer)
    said = repr(text if len(text) <= SHOWN else text[:SHOWN] + "...")
    return f"the completion {said}{problem.where and f' of {problem.where}'}"
