"""What a policy in training does on held-out problems, sampled as in training."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Protocol, runtime_checkable

from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.config.sampling import SamplingConfig
from rlhf.evaluate.task import Reward, evaluate_task
from rlhf.sampling import refuse_long_prompts
from rlhf.tasks.encoding import encode_problem
from rlhf.tasks.problem import Problem, Task
from rlhf.text.chat import refuse_unknown_prompts


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

    def refuse_unreadable(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, first: Sequence[Problem]
    ) -> None:
        """See that the model can read these problems, and the first of training, with max_new_tokens more.

        Raises:
            UserError: a prompt is too long, or too many are of letters that the tokenizer does not know.
        """
        held_out = [problem for problems in self.problems.values() for problem in problems]
        prompts = [encode_problem(tokenizer, it, self.config.system_prompt) for it in [*held_out, *first]]
        refuse_unknown_prompts(tokenizer, prompts)
        refuse_long_prompts(model, prompts, self.config.max_new_tokens)

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
