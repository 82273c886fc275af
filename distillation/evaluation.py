"""Held-out accuracy of the student beside that of its teacher."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distillation.config import DistillationConfig
from distillation.teachers import Teachers
from rlhf.evaluate.held_out import HeldOut
from rlhf.evaluate.task import evaluate_task
from rlhf.run.session import Session


def evaluate(
    session: Session,
    held_out: HeldOut,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    teachers: Teachers | None,
    step: int,
) -> None:
    """The student; and before the first step the teacher too, sampled at teacher_temperature, unless it sees more than
    the question."""
    config: DistillationConfig = session.command.config
    held_out.evaluate(session, model, tokenizer, None, step)
    if teachers is None or not session.is_first(step) or config.teacher_sees != "question":
        return
    for name, problems in held_out.problems.items():
        with teachers.network(config.teachers.get(name, config.teacher_names[0])) as network:
            result = evaluate_task(
                network,
                tokenizer,
                held_out.tasks[name],
                problems,
                session.accelerator,
                greedy=False,
                system_prompt=config.system_prompt,
                max_new_tokens=config.max_new_tokens,
                temperature=config.teacher_temperature,
            )
        session.log_evaluation(step, [result | {"metric": "teacher_accuracy"}])
