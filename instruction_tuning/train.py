"""Instruction tuning: uv run python -m instruction_tuning.train --config instruction_tuning/configs/sft.yaml

Maximize the log-likelihood of the assistant's tokens, every token of a step weighing the same:

    loss = - sum over counted tokens of log pi(token | what came before) / number of counted tokens in the step

RLHF Book, chapter 4. The denominator is the whole step's, over all micro-batches and processes.
"""

import sys
from pathlib import Path

from instruction_tuning.config import InstructionTuningConfig
from rlhf.config.command import Command, read_command, show
from rlhf.errors import run_main

DEFAULT = Path(__file__).parent / "configs" / "sft.yaml"


def train(command: Command[InstructionTuningConfig]) -> int:

    from instruction_tuning.data import Demonstrations, Rows
    from rlhf.aggregate import Totals, token_mean
    from rlhf.distributed import share, total
    from rlhf.embedded.make import character_tokenizer
    from rlhf.evaluation import evaluate_task, messages_for
    from rlhf.groups import Layout, micro_batches
    from rlhf.logprobs import Scorer, score
    from rlhf.models.policy import load_tokenizer
    from rlhf.optimizer import backward, in_turn, learning_rate, make_optimizer, optimizer_step
    from rlhf.run.session import open_session
    from rlhf.sampling import refuse_long_prompts
    from rlhf.tensors import masked_sum
    from rlhf.text.chat import encode_prompt

    config = command.config
    with open_session(command, METRICS, title="SFT", headline=["loss"]) as session:
        say, accelerator = session.console.say, session.accelerator
        tokenizer = character_tokenizer() if config.scratch else load_tokenizer(config.model_name)
        if config.data.path == "demonstrations":
            data = Demonstrations(config, tokenizer)
        else:
            data = Rows(config, tokenizer, say=say)
        session.describe(data=config.data.path, data_fingerprint=data.fingerprint)
        model, tokenizer = session.load_policy(config.scratch)
        for task in data.tasks if data.held_out else ():
            problems = task.held_out_problems(config.data.held_out // len(data.tasks))
            asked = [encode_prompt(tokenizer, messages_for(it, None)) for it in problems]
            refuse_long_prompts(model, asked, config.eval_max_new_tokens, key="eval_max_new_tokens")
        optimizer = make_optimizer(
            model, lr=config.lr, betas=(config.adam_beta1, config.adam_beta2), weight_decay=config.weight_decay
        )
        scorer, optimizer = accelerator.prepare(Scorer(model), optimizer)
        layout: Layout = {"token_budget": config.token_budget, "shared_prefix": session.shared_prefix}

        def evaluate(step: int) -> None:
            if not data.held_out:
                return
            with accelerator.autocast():
                scores = score(Scorer(model), share(data.held_out, accelerator), device=accelerator.device, **layout)
            nats, tokens = total(
                [-float(masked_sum(scores.logp, scores.mask).sum()), int(scores.mask.sum())], accelerator
            )
            session.evaluated(step, [{"data": "held-out", "metric": "loss", "value": nats / tokens, "n": int(tokens)}])
            for task in data.tasks:
                problems = task.held_out_problems(config.data.held_out // len(data.tasks))
                longest = config.eval_max_new_tokens
                results = [
                    evaluate_task(model, tokenizer, task, problems, accelerator, max_new_tokens=longest, greedy=greedy)
                    for greedy in (False, True)
                ]
                session.evaluated(step, results)

        def close(step: int) -> None:
            """The evaluation that is due after a step."""
            if step == config.max_steps or (config.eval_every and step % config.eval_every == 0):
                evaluate(step)

        start, _ = session.begin()
        if session.fresh:
            evaluate(start)
        elif session.owes_evaluation and not session.complete(start, close):
            return session.leave(start)
        for step in range(start, config.max_steps):
            with session.watch("data"):
                groups = data.batch(step, config.batch_size)
                batches = micro_batches(share(groups, accelerator), pack_to=config.pack_to, **layout)
                tokens = sum(sum(counts) for group in groups for counts in group.counts)
                totals = Totals(sequences=len(groups), tokens=tokens, max_new_tokens=config.max_length)
            step_loss = 0.0
            with session.watch("update"):
                for rows in in_turn(batches, accelerator, scorer):
                    scores = scorer(rows.to(accelerator.device))
                    loss = token_mean(-scores.logp, scores.mask, totals)
                    backward(loss, accelerator, session.run.path, rows=rows)
                    step_loss += float(loss.detach())
                lr = learning_rate(
                    step,
                    peak=config.lr,
                    warmup_steps=config.warmup_steps,
                    max_steps=config.max_steps,
                    schedule=config.lr_schedule,
                )
                norm = optimizer_step(accelerator, model, optimizer, lr=lr, max_grad_norm=config.max_grad_norm)
            done = step + 1
            (step_loss,) = total([step_loss], accelerator)
            session.log(done, {"loss": step_loss, "optim/lr": lr, "optim/grad_norm": norm}, tokens=tokens)
            evaluated = session.complete(done, close)
            if done == config.max_steps or done % config.save_every == 0 or session.stopping:
                session.save(done, {}, evaluated=evaluated)
            if session.stopping:
                return session.leave(done)
        session.finish(model, tokenizer)
    return 0


METRICS = {
    "loss": {"description": "Negative log-likelihood of the assistant's tokens, the step's token mean", "unit": "nats"},
    "optim/lr": {"description": "Learning rate of the step", "unit": ""},
    "optim/grad_norm": {"description": "Norm of the whole gradient before clipping", "unit": ""},
    "speed/tokens_per_s": {"description": "Counted tokens a second, over all processes", "unit": "tokens/s"},
    "time/data_s": {"description": "Making and tokenizing the batch", "unit": "s"},
    "time/update_s": {"description": "Forward, backward and optimizer", "unit": "s"},
    "memory/peak_gb": {"description": "Peak memory so far", "unit": "GB"},
}


def main() -> int | None:
    command = read_command(
        InstructionTuningConfig,
        sys.argv[1:],
        prog="python -m instruction_tuning.train",
        description="Train a model on demonstrations (SFT).",
        default_config=DEFAULT,
    )
    if command.show_config:
        print(show(command))
        return 0
    if command.plan:
        return show_needs(command)
    return train(command)


def show_needs(command: Command[InstructionTuningConfig]) -> int:
    from rlhf.run.memory_plan import plan, show_plan

    config = command.config
    print(
        f"SFT on {config.data.path}, profile {command.profile} ({command.profile_reason}): {config.max_steps} steps of "
        f"{config.batch_size} conversations, model {config.model_name}, run directory {config.output_dir}"
    )
    print(show_plan(plan(config)))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
