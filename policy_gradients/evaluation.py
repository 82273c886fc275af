"""Evaluation of the policy on held-out problems, sampled as in training."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from policy_gradients.config import PolicyGradientConfig
from policy_gradients.rewards import RewardFunction
from rlhf.evaluate.task import evaluate_task
from rlhf.run.session import Session
from rlhf.tasks.problem import Problem, Task


class HeldOut:
    """The held-out problems of each task."""

    def __init__(self, tasks: dict[str, Task], config: PolicyGradientConfig):
        self.tasks = tasks
        self.config = config
        self.problems = {name: task.held_out_problems(config.eval_problems) for name, task in tasks.items()}

    def all(self) -> list[Problem]:
        return [problem for problems in self.problems.values() for problem in problems]

    def evaluate(
        self,
        session: Session,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        reward: RewardFunction,
        step: int,
    ) -> None:
        """Accuracy, or the mean reward where there are no reference answers. Sampled; before the first step and after
        the last also greedily."""
        for greedy in [False, True] if session.is_edge(step) else [False]:
            self._evaluate(session, model, tokenizer, reward, step, greedy=greedy)

    def _evaluate(
        self,
        session: Session,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        reward: RewardFunction,
        step: int,
        *,
        greedy: bool,
    ) -> None:
        config = self.config
        for name, problems in self.problems.items():
            result = evaluate_task(
                model,
                tokenizer,
                self.tasks[name],
                problems,
                session.accelerator,
                reward=reward.totals,
                greedy=greedy,
                system_prompt=config.system_prompt,
                max_new_tokens=config.max_new_tokens,
                stop_at=config.stop_at,
                temperature=config.temperature,
                top_k=config.top_k,
                top_p=config.top_p,
            )
            session.log_evaluation(step, [result])
