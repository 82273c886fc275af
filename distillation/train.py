"""Distillation: uv run python -m distillation.train --config distillation/configs/on_policy.yaml

A student learns from what a teacher thinks of every token of a text: of texts that the student writes (on_policy),
that the teacher wrote before (offline), or from itself, as it answers when it sees more (self). What tells one loss
from another is in `objectives.py`. RLHF Book, chapter 12.

Axes of tensors: n completions, t tokens of the longest one, v vocabulary, d and e hidden sizes of student and teacher.

    (n, t)       logp, logp_teacher, divergence, mask
    (n, t, e)    the teacher's hidden states; (m, v) exists for a chunk of m tokens at a time: distributions.py

What a step calls: batches.py (texts), teachers.py (the teacher's hidden states), update.py (the loss of the student
and its optimizer step).
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from distillation.config import DistillationConfig
from distillation.look import look
from rlhf.config.command import Command, read_command
from rlhf.errors import run_main
from rlhf.run.command import run_command

if TYPE_CHECKING:
    from rlhf.run.memory_plan import Plan
    from rlhf.run.result import RunResult

DEFAULT = Path(__file__).parent / "configs" / "on_policy.yaml"


def train(command: Command[DistillationConfig]) -> "RunResult":
    # Imported here, since they load PyTorch: --help and errors in a config come at once.
    from distillation.batches import Sampler, mini_batches, open_texts, samples
    from distillation.diagnostics import Adviser, StepSums, describe_metrics
    from distillation.evaluation import evaluate
    from distillation.teachers import Teachers, refuse_other_vocabularies
    from distillation.update import Learner
    from rlhf.evaluate.held_out import HeldOut
    from rlhf.run.session import open_session
    from rlhf.tasks.of_config import open_tasks, training_task

    config = command.config
    tasks = open_tasks(config)
    task = training_task(tasks, config)
    described = describe_metrics(config, verifies=task.verifies)
    headline = [name for name in ("reward/exact", "teacher/reverse_kl", "loss") if name in described]
    title = f"{config.objective} from {config.taught_by}"
    with open_session(command, described, title=title, headline=headline, advice=Adviser().check) as session:
        session.describe(data=task.name, data_fingerprint=task.fingerprint)
        tokenizer = session.load_tokenizer()
        refuse_other_vocabularies(tokenizer, config)
        model, tokenizer = session.load_policy()
        teachers = Teachers(session, model) if config.compares else None
        held_out = HeldOut({name: task for name, task in tasks.items() if task.verifies}, config)
        texts = open_texts(session, model, tokenizer, task)
        sampler = Sampler(session, model, tokenizer, task, texts)
        held_out.refuse_unreadable(model, tokenizer, sampler.first_problems())
        learner = Learner(session, model, teachers)

        session.begin()
        for step in session.steps(partial(evaluate, session, held_out, model, tokenizer, teachers)):
            # 1. This step's prompts, with completions of the student, or texts of the teacher or a file.
            with session.watch("sampling"):
                batch = sampler.batch(step)
                sums = StepSums(batch)

            for i, mini_batch in enumerate(mini_batches(batch, config.steps_per_batch)):
                # 2. The teacher's hidden states at every token.
                with session.watch("teacher"):
                    scored = learner.score(mini_batch)

                # 3. One optimizer step on the loss of every token.
                with session.watch("update"):
                    number = step * config.steps_per_batch + i
                    lr = session.learning_rate(number, of=config.max_steps * config.steps_per_batch)
                    learner.update(scored, sums, lr=lr)

            # 4. Move a teacher that follows, log, sample, evaluate and save when due.
            done = step + 1
            if teachers is not None:
                teachers.end_step(done)
            metrics, tokens = sums.means(described, session.accelerator)
            shown = {name: f"{metrics[name]:.3f}" for name in headline if name in metrics}
            session.log(done, metrics, tokens=tokens, show=shown)
            if session.is_due("sample", done):
                session.log_samples(done, samples(batch))
            session.end_step(done)
        return session.end(model, tokenizer, next_command="uv run python -m rlhf.report {run} OTHER_RUN")


def plan(config: DistillationConfig) -> "Plan":
    """What a run would do and load, for --plan."""
    from rlhf.run.memory_plan import Plan, Sampled, memory_needs

    lies_beside = config.compares and config.is_self and config.teacher_moves != "live"
    others = config.teacher_names if config.asks_teacher and not (config.compares and config.is_self) else []
    memory = memory_needs(
        config,
        reference="always" if lies_beside else None,
        teachers=dict.fromkeys(others, "always" if config.compares else "sampling"),
        sampled=[
            Sampled(
                config.prompts_per_step if config.on_policy_share else 0,
                config.group_size,
                config.max_new_tokens,
                at_once=config.sampling_batch,
            ),
            Sampled(config.eval_problems, 1, config.max_new_tokens),
        ],
    )
    batches = (
        f"{config.max_steps} batches of {config.prompts_per_step} prompts x {config.group_size} completions of up to "
        f"{config.max_new_tokens} tokens, {config.on_policy_share:.0%} of the student"
    )
    tasks = " + ".join(config.parameters_of_tasks)
    return Plan(f"{config.objective} from {config.taught_by} on {tasks}", batches, memory)


def read(argv: Sequence[str]) -> Command[DistillationConfig]:
    """The command line, without the program's name, as a command."""
    return read_command(
        DistillationConfig,
        list(argv),
        prog="python -m distillation.train",
        description="Teach a student the distribution of a teacher.",
        default_config=DEFAULT,
    )


def main() -> int:
    return run_command(read(sys.argv[1:]), train, plan, look)


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
