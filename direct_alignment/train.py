"""Direct alignment: uv run python -m direct_alignment.train --config direct_alignment/configs/dpo.yaml

Take pairs, compute the log-probability of both completions under the policy and under a reference, and make the chosen
more likely relative to the rejected. What tells one loss from another is one function of `losses.py`; for DPO it is

    loss = -log sigmoid(beta (s_w - s_l)),    s = log pi(completion | prompt) - log pi_ref(completion | prompt)

RLHF Book, chapter 8. The optimizer step, in micro-batches, is in `update.py`.
"""

import sys
from typing import TYPE_CHECKING

from direct_alignment.config import DirectAlignmentConfig, read
from direct_alignment.look import look
from rlhf.config.command import Command
from rlhf.errors import run_main
from rlhf.run.command import run_command

if TYPE_CHECKING:
    from rlhf.run.memory_plan import Plan
    from rlhf.run.result import RunResult


def train(command: Command[DirectAlignmentConfig]) -> "RunResult":
    # Imported here, since they load PyTorch: --help and errors in a config come at once.
    from dataclasses import replace

    from direct_alignment.data import class_imbalance, load
    from direct_alignment.defaults import resolve
    from direct_alignment.diagnostics import METRICS, Adviser
    from direct_alignment.evaluation import Evaluation
    from direct_alignment.log_ratios import mismatched
    from direct_alignment.online import OnlinePairs
    from direct_alignment.reference import open_reference
    from direct_alignment.update import PolicyLearner
    from rlhf.logprobs import Scorer
    from rlhf.run.session import open_session
    from rlhf.tasks.problem import refuse_unverified
    from rlhf.tasks.registry import open_task

    config, loss, settings = resolve(command.config)
    command = replace(command, config=config)
    task = open_task(config.task, config.task_config, answer_in=config.answer_in) if config.task else None
    if task:
        refuse_unverified(task, "pairing and judging completions")
    title, headline = config.loss.upper(), ["loss", "reward/accuracy", "reward/margin"]

    with open_session(command, METRICS, title=title, headline=headline, advice=Adviser().check) as session:
        data = load(config, loss, task, session.load_tokenizer(), say=session.console.say)
        session.describe(data=config.task or config.data.path, data_fingerprint=data.fingerprint)
        model, tokenizer = session.load_policy()
        reference = open_reference(session, model, config, loss)
        if reference is not None:
            data = replace(data, train=reference.score_once(data.train), held_out=reference.score_once(data.held_out))
        learner = PolicyLearner(session, model, loss, settings)
        evaluation = Evaluation(session, model, tokenizer, data.held_out, task, loss, settings, reference)
        online = OnlinePairs(session, model, tokenizer, task, loss, reference) if task and config.online_every else None

        _, state = session.begin()
        if online is not None:
            online.load_state(state)
        if session.fresh and "desirable_weight" in settings and (warning := class_imbalance(data.train, settings)):
            session.advise(0, warning)

        for step in session.steps(evaluation.evaluate, evaluation.sample):
            # 1. The step's pairs: from the data, or of the policy itself, sampled anew every `online_every` steps.
            examples = data.batch(step, config.batch_size) if online is None else online.batch(step)

            # 2. Log-probabilities that change with every step: under a moving reference, and of KTO's mismatched pairs
            #    under the policy. Those under a frozen reference were computed above, once for all steps.
            if reference is not None and reference.moves:
                with session.watch("reference"):
                    examples = reference.score(examples)
            s_mismatched = None
            if "mismatched" in loss.needs:
                with session.watch("mismatched"):
                    s_mismatched = mismatched(Scorer(model), examples, session.accelerator, session.layout)

            # 3. One optimizer step on loss(s_w, s_l), mean over the step's pairs.
            metrics, tokens = learner.update(examples, s_mismatched, lr=session.learning_rate(step))

            # 4. Move the reference, log, sample, evaluate, save.
            done = step + 1
            if reference is not None:
                reference.follow(done)
            if s_mismatched is not None:
                metrics["kto/z"] = float(s_mismatched.mean())
            if online is not None:
                metrics["online/pairs"] = float(len(online.pairs))
            shown = {"loss": f"{metrics['loss']:.3f}", "accuracy": f"{metrics['reward/accuracy']:.2f}"}
            session.log(done, metrics, tokens=tokens, show=shown)
            session.end_step(done, state=dict if online is None else online.state)
        return session.end(model, tokenizer, next_command="uv run python -m rlhf.report {run} OTHER_RUN")


def plan(config: DirectAlignmentConfig) -> "Plan":
    """What a run would do and load, for --plan."""
    from direct_alignment.defaults import resolve
    from rlhf.run.memory_plan import Plan, Sampled, memory_needs

    config, _, settings = resolve(config)
    values = ", ".join(f"{key} {value:g}" for key, value in settings.items())
    memory = memory_needs(
        config,
        # A frozen one is loaded to fill the cache and, at evaluations, to measure KL: not while the policy trains.
        reference=None if config.reference == "none" else "always" if config.keeps_reference else "sampling",
        sampled=[
            Sampled(config.eval_samples, 1, config.max_new_tokens, prompt=config.max_length),
            Sampled(config.eval_problems if config.task else 0, 1, config.max_new_tokens),
        ],
    )
    task = f"{config.loss} ({values}) on {config.task or config.data.path}"
    return Plan(task, f"{config.max_steps} steps of {config.batch_size} pairs", memory)


def main() -> int:
    return run_command(read(sys.argv[1:]), train, plan, look)


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
