"""Held-out accuracy of the student, sampled as in training, beside that of its teacher."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distillation.config import DistillationConfig
from distillation.teachers import Teachers
from rlhf.evaluate.task import evaluate_task
from rlhf.run.session import Session
from rlhf.tasks.problem import Problem, Task


class HeldOut:
    """The held-out problems of each task that can tell right from wrong."""

    def __init__(self, session: Session, tasks: dict[str, Task], tokenizer: PreTrainedTokenizerBase):
        self.session, self.tokenizer = session, tokenizer
        self.config: DistillationConfig = session.command.config
        self.tasks = {name: task for name, task in tasks.items() if task.verifies}
        self.problems = {name: task.held_out_problems(self.config.eval_problems) for name, task in self.tasks.items()}

    def all(self) -> list[Problem]:
        return [problem for problems in self.problems.values() for problem in problems]

    def evaluate(self, student: PreTrainedModel, teachers: Teachers | None, step: int) -> None:
        """The student; before the first step and after the last also greedily. Before the first step the teacher too,
        sampled at teacher_temperature, unless it sees more than the question."""
        config, session = self.config, self.session
        for greedy in [False, True] if session.is_edge(step) else [False]:
            for name in self.tasks:
                self._log(step, name, student, "accuracy", config.temperature, greedy=greedy)
        if teachers is None or not session.is_first(step) or config.teacher_sees != "question":
            return
        for name in self.tasks:
            with teachers.network(config.teachers.get(name, config.teacher_names[0])) as network:
                self._log(step, name, network, "teacher_accuracy", config.teacher_temperature)

    def _log(
        self, step: int, name: str, model: PreTrainedModel, metric: str, temperature: float, *, greedy: bool = False
    ) -> None:
        config = self.config
        result = evaluate_task(
            model,
            self.tokenizer,
            self.tasks[name],
            self.problems[name],
            self.session.accelerator,
            greedy=greedy,
            system_prompt=config.system_prompt,
            max_new_tokens=config.max_new_tokens,
            temperature=temperature,
        )
        self.session.log_evaluation(step, [result | {"metric": f"{metric}_greedy" if greedy else metric}])
