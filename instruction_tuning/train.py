"""Instruction tuning: uv run python -m instruction_tuning.train --config instruction_tuning/configs/sft.yaml

Maximize the log-likelihood of the assistant's tokens, every token of a step weighing the same:

    loss = - sum over counted tokens of log pi(token | what came before) / number of counted tokens in the step

RLHF Book, chapter 4. The denominator is the whole step's, over all micro-batches and processes. `loss: dft` weighs each
token by its probability, see `losses.py`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from instruction_tuning.config import InstructionTuningConfig
from instruction_tuning.look import look
from rlhf.config.command import Command, read_command
from rlhf.errors import run_main
from rlhf.run.command import run_command

if TYPE_CHECKING:
    from rlhf.run.memory_plan import Plan
    from rlhf.run.result import RunResult

DEFAULT = Path(__file__).parent / "configs" / "sft.yaml"


def train(command: Command[InstructionTuningConfig]) -> "RunResult":
    # Imported here, since they load PyTorch: --help and errors in a config come at once.
    from instruction_tuning import evaluation
    from instruction_tuning.data import open_data
    from instruction_tuning.losses import losses
    from rlhf.aggregate import Totals, token_mean
    from rlhf.distributed import all_reduce_sum, local_shard
    from rlhf.groups import micro_batches
    from rlhf.logprobs import Scorer
    from rlhf.optimizer import backward, in_turn, optimizer_step
    from rlhf.run.session import open_session

    config = command.config
    loss_of = losses[config.loss]
    with open_session(command, METRICS, title="SFT", headline=["loss"]) as session:
        accelerator = session.accelerator
        data = open_data(config, session.load_tokenizer(config.scratch), say=session.console.say)
        session.describe(data=config.data.path, data_fingerprint=data.fingerprint)
        model, tokenizer = session.load_policy(config.scratch)
        evaluation.refuse_long_problems(model, tokenizer, data, config)
        scorer, optimizer = session.prepare(Scorer(model), session.make_optimizer(model))

        def evaluate(step: int) -> None:
            records = evaluation.evaluate(model, tokenizer, data, config, accelerator, session.layout)
            session.log_evaluation(step, records)

        session.begin()
        for step in session.steps(evaluate):
            # 1. The step's conversations, the same in every process; each process lays its share in rows.
            with session.watch("data"):
                groups = data.batch(step, config.batch_size)
                batches = micro_batches(local_shard(groups, accelerator), pack_to=config.pack_to, **session.layout)
                tokens = sum(sum(mask) for group in groups for mask in group.loss_mask)
                # The denominators of the whole step, of which `token_mean` takes the tokens.
                totals = Totals(sequences=len(groups), tokens=tokens, max_new_tokens=config.max_length)

            # 2. One optimizer step, in micro-batches whose losses add up to the step's.
            step_loss = 0.0
            with session.watch("update"):
                for rows in in_turn(batches, accelerator, scorer):
                    scores = scorer(rows.to(accelerator.device))
                    loss = token_mean(loss_of(scores.logp), scores.mask, totals)
                    backward(loss, accelerator, session.path, rows=rows)
                    step_loss += float(loss.detach())
                lr = session.learning_rate(step)
                norm = optimizer_step(accelerator, scorer, optimizer, lr=lr, max_grad_norm=config.max_grad_norm)

            # 3. Log, evaluate, save.
            done = step + 1
            (step_loss,) = all_reduce_sum([step_loss], accelerator)
            session.log(done, {"loss": step_loss, "optim/lr": lr, "optim/grad_norm": norm}, tokens=tokens)
            session.end_step(done)
        return session.end(model, tokenizer)


METRICS = {
    "loss": {
        "description": "Loss of the assistant's tokens, the step's token mean: of nll their negative log-likelihood",
        "unit": "nats",
    },
    "speed/tokens_per_s": {"description": "Counted tokens a second, over all processes", "unit": "tokens/s"},
    "time/data_s": {"description": "Making and tokenizing the batch", "unit": "s"},
}


def plan(config: InstructionTuningConfig) -> "Plan":
    """What a run would do and load, for --plan."""
    from rlhf.run.memory_plan import Plan, memory_needs

    size = f"{config.max_steps} steps of {config.batch_size} conversations"
    return Plan(f"SFT on {config.data.path}", size, memory_needs(config))


def read(argv: Sequence[str]) -> Command[InstructionTuningConfig]:
    """The command line, without the program's name, as a command."""
    return read_command(
        InstructionTuningConfig,
        list(argv),
        prog="python -m instruction_tuning.train",
        description="Train a model on demonstrations (SFT).",
        default_config=DEFAULT,
    )


def main() -> int:
    return run_command(read(sys.argv[1:]), train, plan, look)


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
