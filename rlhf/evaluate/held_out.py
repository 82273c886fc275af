"""What a policy in training does on held-out problems, sampled as in training."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Protocol, runtime_checkable

from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.config.sampling import SamplingConfig
from rlhf.evaluate.task import Reward, evaluate_task
from rlhf.tasks.problem import Problem, Task


@runtime_checkable  # for beartype, in tests
class Measured(Protocol):
    """What is asked of a run: a `Session`."""

    accelerator: Accelerator

    def is_edge(self, step: int) -> bool: ...

    def log_evaluation(self, step: int, results: Sequence[Mapping[str, Any]]) -> None: ...


class HeldOut:
    """The held-out problems of each task.

    Args:
        stop_at: "end", or "answer" where training cuts completions behind </answer>.
    """

    def __init__(self, tasks: Mapping[str, Task], config: SamplingConfig, *, stop_at: str = "end"):
        self.tasks, self.config, self.stop_at = tasks, config, stop_at
        self.problems = {name: task.held_out_problems(config.eval_problems) for name, task in tasks.items()}

    def all(self) -> list[Problem]:
        return [problem for problems in self.problems.values() for problem in problems]

    def evaluate(
        self,
        run: Measured,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        reward: Reward | None,
        step: int,
    ) -> None:
        """Accuracy, or the mean `reward` where there are no reference answers. Sampled; before the first step and after
        the last also with the most likely tokens."""
        config = self.config
        ways = [False, True] if run.is_edge(step) else [False]
        for greedy, (name, problems) in product(ways, self.problems.items()):
            result = evaluate_task(
                model,
                tokenizer,
                self.tasks[name],
                problems,
                run.accelerator,
                reward=reward,
                greedy=greedy,
                system_prompt=config.system_prompt,
                max_new_tokens=config.max_new_tokens,
                stop_at=self.stop_at,
                temperature=config.temperature,
                **config.kept_tokens,
            )
            run.log_evaluation(step, [result])
