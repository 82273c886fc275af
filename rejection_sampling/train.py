"""Rejection sampling: uv run python -m rejection_sampling.train --config rejection_sampling/configs/top_per_prompt.yaml

Sample completions, keep the best, and learn those by supervised fine-tuning; then sample again from what was learned:

    y_1 ... y_g ~ pi(. | x),  S = select({(x, y_j, r_j)}),  loss = - sum over tokens of S of log pi / number of tokens

RLHF Book, chapter 9. Several rounds are expert iteration: RAFT (Dong et al., 2023, arXiv 2304.06767) goes on from the
weights of the round before, ReST-EM (Singh et al., 2023, arXiv 2312.06585) from those of the start (`train_from`).

What a round calls: rounds.py (completions, rewards, the selection of them), selection.py (which are the best). The
reward is the verdict of the task, or the score of a trained reward model.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rejection_sampling.config import RejectionSamplingConfig, fill
from rejection_sampling.look import look
from rlhf.config.command import Command, read_command
from rlhf.errors import run_main
from rlhf.run.command import run_command

if TYPE_CHECKING:
    from rlhf.run.memory_plan import Plan
    from rlhf.run.result import RunResult

DEFAULT = Path(__file__).parent / "configs" / "top_per_prompt.yaml"


def train(command: Command[RejectionSamplingConfig]) -> "RunResult":
    # Imported here, since they load PyTorch: --help and errors in a config come at once.
    from rejection_sampling.diagnostics import Adviser, describe_metrics
    from rejection_sampling.rounds import Rounds
    from rejection_sampling.weights import StartingPoint
    from rlhf.aggregate import Totals, token_mean
    from rlhf.distributed import all_reduce_sum, local_shard
    from rlhf.evaluate.held_out import HeldOut
    from rlhf.evaluate.reward_model import load_reward_model
    from rlhf.groups import micro_batches
    from rlhf.logprobs import Scorer
    from rlhf.optimizer import backward, in_turn, optimizer_step
    from rlhf.run.session import open_session
    from rlhf.tasks.of_config import open_tasks, training_task
    from rlhf.tasks.problem import refuse_unverified

    config = command.config
    tasks = open_tasks(config)
    task = training_task(tasks, config)
    for one in () if config.reward_models else tasks.values():
        refuse_unverified(one, "selecting without a reward_model")
    metrics, advice = describe_metrics(verifies=task.verifies), Adviser(config).check
    with open_session(command, metrics, title=config.selection, headline=["loss"], advice=advice) as session:
        session.describe(data=task.name, data_fingerprint=task.fingerprint)
        accelerator = session.accelerator
        reward_model = load_reward_model(config, system_prompt=config.system_prompt)
        held_out = HeldOut(tasks, config)
        model, tokenizer = session.load_policy()
        rounds = Rounds(session, model, tokenizer, task, reward_model)
        held_out.refuse_unreadable(model, tokenizer, rounds.problems(0))
        scorer, optimizer = session.prepare(Scorer(model), session.make_optimizer(model))
        start = StartingPoint(model, optimizer) if config.train_from == "start" else None

        _, state = session.begin()
        rounds.load_state(state)

        for step in session.steps(partial(held_out.evaluate, session, model, tokenizer, rounds.rewards)):
            # 1. A new round: sample from the policy as it is, score, select.
            number, place = divmod(step, config.steps_per_round)
            metrics = {}
            if place == 0:
                with session.watch("sampling"):
                    metrics = rounds.begin(number)
                if start:
                    start.restore()

            # 2. The step's completions, the same in every process; each process lays its share in rows.
            groups = rounds.batch(place)
            batches = micro_batches(local_shard(groups, accelerator), **session.layout)
            tokens = sum(len(completion) for group in groups for completion in group.completions)
            # The denominators of the whole step, of which `token_mean` takes the tokens.
            totals = Totals(sequences=len(groups), tokens=tokens, max_new_tokens=config.max_new_tokens)

            # 3. One optimizer step, in micro-batches whose losses add up to the step's.
            step_loss = 0.0
            with session.watch("update"):
                for rows in in_turn(batches, accelerator, scorer):
                    scores = scorer(rows.to(accelerator.device))
                    loss = token_mean(-scores.logp, scores.mask, totals)
                    backward(loss, accelerator, session.path, rows=rows)
                    step_loss += float(loss.detach())
                lr = session.learning_rate(place, of=config.steps_per_round)  # each round is a training of its own
                norm = optimizer_step(accelerator, scorer, optimizer, lr=lr, max_grad_norm=config.max_grad_norm)

            # 4. Log, evaluate, save.
            done = step + 1
            (step_loss,) = all_reduce_sum([step_loss], accelerator)
            metrics = {"loss": step_loss, "optim/lr": lr, "optim/grad_norm": norm, **metrics}
            session.log(done, metrics, tokens=tokens)
            if place == 0:
                session.log_samples(done, rounds.samples())
            session.end_step(done, state=rounds.state)
        return session.end(model, tokenizer, next_command="uv run python -m rlhf.report {run} OTHER_RUN")


def plan(config: RejectionSamplingConfig) -> "Plan":
    """What a run would do and load, for --plan."""
    from rlhf.run.memory_plan import Plan, Sampled, memory_needs

    memory = memory_needs(
        config,
        reward_models=config.reward_models,
        sampled=[
            Sampled(config.prompts_per_round, config.group_size, config.max_new_tokens, at_once=config.sampling_batch),
            Sampled(config.eval_problems, 1, config.max_new_tokens),
        ],
    )
    rounds = -(-config.max_steps // config.steps_per_round)
    size = (
        f"{rounds} round{'s' * (rounds > 1)} of {config.prompts_per_round} prompts x {config.group_size} completions "
        f"of up to {config.max_new_tokens} tokens, {config.max_steps} steps of {config.batch_size} of those selected"
    )
    return Plan(f"{config.selection} on {' + '.join(config.parameters_of_tasks)}", size, memory)


def read(argv: Sequence[str]) -> Command[RejectionSamplingConfig]:
    """The command line, without the program's name, as a command."""
    return read_command(
        RejectionSamplingConfig,
        list(argv),
        prog="python -m rejection_sampling.train",
        description="Train a policy on the best of its own completions.",
        default_config=DEFAULT,
        named_by="selection",
        fill=fill,
    )


def main() -> int:
    return run_command(read(sys.argv[1:]), train, plan, look)


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
