"""What a policy in training does on held-out problems, sampled as in training."""

from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.config.sampling import SamplingConfig
from rlhf.evaluate.task import Reward, evaluate_task
from rlhf.tasks.problem import Problem, Task


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
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        accelerator: Accelerator,
        *,
        reward: Reward | None,
        greedily: bool,
    ) -> list[dict[str, Any]]:
        """eval.jsonl records less their step: accuracy, or the mean reward where there are no reference answers.

        Args:
            reward: what completions are paid; asked for where a task does not tell right from wrong.
            greedily: also with the most likely tokens.
        """
        config = self.config
        return [
            evaluate_task(
                model,
                tokenizer,
                self.tasks[name],
                problems,
                accelerator,
                reward=reward,
                greedy=greedy,
                system_prompt=config.system_prompt,
                max_new_tokens=config.max_new_tokens,
                stop_at=self.stop_at,
                temperature=config.temperature,
                top_k=config.top_k,
                top_p=config.top_p,
            )
            for greedy in ([False, True] if greedily else [False])
            for name, problems in self.problems.items()
        ]
