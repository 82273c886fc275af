"""Held-out evaluation of the policy, sampled as in training."""

from collections.abc import Mapping, Sequence
from itertools import product

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rejection_sampling.answered import Score
from rejection_sampling.config import RejectionSamplingConfig
from rlhf.data.answers import Answer
from rlhf.evaluate.task import evaluate_task
from rlhf.run.session import Session
from rlhf.tasks.problem import Problem, Task


class HeldOut:
    """The held-out problems of each task, of which no round has any."""

    def __init__(self, tasks: Mapping[str, Task], config: RejectionSamplingConfig, reward_model: Score | None):
        self.tasks, self.config, self.reward_model = tasks, config, reward_model
        self.problems = {name: task.held_out_problems(config.eval_problems) for name, task in tasks.items()}

    def all(self) -> list[Problem]:
        return [problem for problems in self.problems.values() for problem in problems]

    def evaluate(self, session: Session, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, step: int) -> None:
        """Accuracy, or the mean reward where there are no reference answers. Sampled; before the first step and after
        the last also greedily."""
        config = self.config
        ways = [False, True] if session.is_edge(step) else [False]
        for greedy, (name, problems) in product(ways, self.problems.items()):
            result = evaluate_task(
                model,
                tokenizer,
                self.tasks[name],
                problems,
                session.accelerator,
                reward=self._rewards,
                greedy=greedy,
                system_prompt=config.system_prompt,
                max_new_tokens=config.max_new_tokens,
                temperature=config.temperature,
                top_k=config.top_k,
                top_p=config.top_p,
            )
            session.log_evaluation(step, [result])

    def _rewards(self, answered: Sequence[tuple[Problem, Sequence[Answer]]]) -> list[float]:
        assert self.reward_model is not None, "a task without reference answers has a reward model: see train"
        return [reward for own in self.reward_model(answered) for reward in own]
