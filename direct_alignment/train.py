"""Direct alignment: uv run python -m direct_alignment.train --config direct_alignment/configs/dpo.yaml

Read from top to bottom: take pairs, score both completions under the policy, compare with what the reference gave them,
and make the chosen more likely relative to the rejected. What tells one loss from another is one function of
`losses.py`; RLHF Book, chapter 8.
"""

import sys
from typing import TYPE_CHECKING

from direct_alignment.config import DirectAlignmentConfig, read
from rlhf.config.command import Command
from rlhf.errors import run_main
from rlhf.run.command import run_command

if TYPE_CHECKING:
    from rlhf.run.memory_plan import Plan


def train(command: Command[DirectAlignmentConfig]) -> int:
    from dataclasses import replace

    import torch

    from direct_alignment import online
    from direct_alignment.data import Example, class_weights, load
    from direct_alignment.defaults import resolve
    from direct_alignment.diagnostics import METRICS, Adviser, StepSums
    from direct_alignment.evaluation import as_sample, evaluate_pairs, evaluate_samples, mismatched, write
    from direct_alignment.log_ratios import compare, count, lengths, sequence_logp, whole_step
    from direct_alignment.reference import Reference
    from rlhf.distributed import share, total
    from rlhf.evaluation import evaluate_task, messages_for
    from rlhf.groups import Layout, whole_micro_batches
    from rlhf.logprobs import Scorer
    from rlhf.models.policy import load_tokenizer
    from rlhf.optimizer import backward, in_turn, learning_rate, make_optimizer, optimizer_step
    from rlhf.run.session import open_session
    from rlhf.sampling import refuse_long_prompts
    from rlhf.tasks.registry import open_task
    from rlhf.text.chat import encode_prompt

    config, loss, settings = resolve(command.config)
    command = replace(command, config=config)
    task = open_task(config.task, config.task_config, answer_in=config.answer_in) if config.task else None
    problems = task.held_out_problems(config.eval_problems) if task else []

    headline = ["loss", "reward/accuracy", "reward/margin"]
    with open_session(command, METRICS, title=config.loss.upper(), headline=headline) as session:
        accelerator, say = session.accelerator, session.console.say
        data = load(config, loss, task, load_tokenizer(config.model_name), say=say)
        session.describe(data=config.task or config.data.path, data_fingerprint=data.fingerprint)
        model, tokenizer = session.load_policy()
        layout: Layout = {"token_budget": config.token_budget, "shared_prefix": session.shared_prefix}
        reference = None
        if config.reference == "initial":
            every, mix = config.sync_reference_every, config.sync_reference_mix
            reference = Reference(session, model, layout, every=every, mix=mix, keep=bool(config.online_every))
        compared = reference if "reference" in loss.needs else None  # what the loss takes log-ratios against
        if compared is not None:
            data = replace(data, train=compared.score_once(data.train), held_out=compared.score_once(data.held_out))
        optimizer = make_optimizer(
            model, lr=config.lr, betas=(config.adam_beta1, config.adam_beta2), weight_decay=config.weight_decay
        )
        scorer, optimizer = accelerator.prepare(Scorer(model), optimizer)
        pairs = all(len(example.desirable) == 2 for example in data.train)
        prompts = list(dict.fromkeys(tuple(example.group.prompt) for example in data.held_out))
        adviser = Adviser()
        answered = [encode_prompt(tokenizer, messages_for(it, config.system_prompt)) for it in problems]
        refuse_long_prompts(model, [*answered, *prompts[: max(4, config.eval_samples)]], config.max_new_tokens)

        def evaluate(step: int, *, greedy: bool = False) -> None:
            results = []
            if task:
                result = evaluate_task(
                    model,
                    tokenizer,
                    task,
                    problems,
                    accelerator,
                    max_new_tokens=config.max_new_tokens,
                    greedy=greedy,
                    system_prompt=config.system_prompt,
                )
                results.append(result)
            if not greedy:
                # A reference that moves is the one that the loss compares with now, in training and here alike.
                moves = compared is not None and compared.moving is not None
                held_out = compared.score(data.held_out) if compared is not None and moves else data.held_out
                results += evaluate_pairs(model, held_out, loss, settings, accelerator, layout)
                some = prompts[: config.eval_samples]
                if some:
                    written = write(model, tokenizer, some, accelerator, max_new_tokens=config.max_new_tokens)
                    results += evaluate_samples(some, written, reference)
            session.evaluated(step, results)
            for text in adviser.look_at_evaluations(session.results):
                session.advise(step, text)

        def samples(step: int) -> None:
            some = prompts[:4]
            if problems:
                some = [encode_prompt(tokenizer, messages_for(it, config.system_prompt)) for it in problems[:4]]
            written = write(model, tokenizer, some, accelerator, max_new_tokens=config.max_new_tokens)
            shown = [as_sample(tokenizer, prompt, one) for prompt, one in zip(some, written, strict=True)]
            if task:
                exact = [
                    task.verify(it, sample["completion"]).exact for it, sample in zip(problems, shown, strict=False)
                ]
                shown = [{**sample, "total": it} for sample, it in zip(shown, exact, strict=True)]
            session.samples(step, shown)

        def close(step: int) -> None:
            """The samples and the evaluation that are due after a step."""
            last = step == config.max_steps
            if step == 1 or last or step % config.sample_every == 0:
                samples(step)
            if last or (config.eval_every and step % config.eval_every == 0):
                evaluate(step)
            if last:
                evaluate(step, greedy=True)

        start, state = session.begin()
        for metrics in session.logged():
            adviser.look(metrics)
        fresh: list[Example] = online.from_state(state.get("fresh", []))
        if session.fresh:
            evaluate(start)
            evaluate(start, greedy=True)
            if "desirable_weight" in settings and (text := class_weights(data.train, settings)):
                session.advise(start, text)
        elif session.owes_evaluation and not session.complete(start, close):
            return session.leave(start)

        for step in range(start, config.max_steps):
            # 1. The step's pairs: of the data, or sampled from the policy as it is now.
            if config.online_every:
                assert task is not None
                if step % config.online_every == 0:
                    with session.watch("sampling"):
                        fresh = online.fresh_pairs(
                            model, tokenizer, task, accelerator, config, loss, step=step, say=say
                        )
                        fresh = compared.score(fresh) if compared else fresh
                examples = online.take(fresh, step, config)
            else:
                examples = data.batch(step, config.batch_size)

            # 2. What is not the update's own: a reference that moves, the log-ratios of mismatched completions.
            s_mismatched = None
            if compared is not None and compared.moving is not None:
                with session.watch("reference"):
                    examples = compared.score(examples)
            if "mismatched" in loss.needs:
                with session.watch("mismatched"):
                    s_mismatched = mismatched(Scorer(model), examples, accelerator, layout)

            # 3. Update: one optimizer step, in micro-batches that together make it.
            sums, step_loss = StepSums(loss, settings), 0.0
            with session.watch("update"):
                mine, denominator = share(examples, accelerator), count(loss, examples)
                parts = whole_micro_batches([example.group for example in mine], **layout)
                slopes = None
                if "whole step" in loss.needs and (len(parts) > 1 or accelerator.num_processes > 1):
                    step_loss, slopes = whole_step(loss, settings, Scorer(model), examples, accelerator, layout)
                    slopes = share(slopes, accelerator)
                for part in in_turn(parts, accelerator, scorer):
                    rows = part.rows.to(accelerator.device)
                    logp = sequence_logp(scorer(rows), rows)
                    completions = compare(logp, lengths(rows), [mine[n] for n in part.numbers], s_mismatched)
                    if slopes is None:
                        value = loss(completions, **settings).sum() / denominator
                        step_loss += float(value.detach())
                    else:
                        value = (logp * torch.cat([slopes[n] for n in part.numbers])).sum()
                    backward(value, accelerator, session.run.path, rows=rows, completions=completions)
                    sums.add(completions, pairs=pairs)
                lr = learning_rate(
                    step,
                    peak=config.lr,
                    warmup_steps=config.warmup_steps,
                    max_steps=config.max_steps,
                    schedule=config.lr_schedule,
                )
                norm = optimizer_step(accelerator, model, optimizer, lr=lr, max_grad_norm=config.max_grad_norm)
            done = step + 1
            if compared is not None:
                compared.after_step(done)

            # 4. Tell what happened; save; evaluate.
            if slopes is None:
                (step_loss,) = total([step_loss], accelerator)
            (tokens,) = total([sums.tokens], accelerator)
            metrics = {"loss": step_loss, **sums.means(accelerator), "optim/lr": lr, "optim/grad_norm": norm}
            if s_mismatched is not None:
                metrics["kto/z"] = float(s_mismatched.mean())
            if fresh:
                metrics["online/pairs"] = float(len(fresh))
            shown = {"loss": f"{step_loss:.3f}", "accuracy": f"{metrics['reward/accuracy']:.2f}"}
            session.log(done, metrics, tokens=round(tokens), show=shown)
            for text in adviser.look(metrics):
                session.advise(done, text)
            evaluated = session.complete(done, close)
            if done == config.max_steps or done % config.save_every == 0 or session.stopping:
                state = {"fresh": online.to_state(fresh)}
                session.save(done, state, evaluated=evaluated)
            if session.stopping:
                return session.leave(done)
        session.finish(model, tokenizer, next_command="uv run python -m rlhf.report {run} OTHER_RUN")
    return 0


def plan(config: DirectAlignmentConfig) -> "Plan":
    from direct_alignment.defaults import resolve
    from rlhf.run.memory_plan import Plan, memory_needs

    config, _, settings = resolve(config)
    values = ", ".join(f"{key} {value:g}" for key, value in settings.items())
    samples = max(config.eval_samples, config.eval_problems if config.task else 0)
    at_once = min(256, samples)
    memory = memory_needs(
        config,
        # A reference that stays is loaded to fill the cache and to measure KL: beside the policy all the same.
        reference=config.reference == "initial" and not config.lora_rank,
        sampled=(at_once, config.max_new_tokens) if at_once else (0, 0),
    )
    task = f"{config.loss} ({values}) on {config.task or config.data.path}"
    return Plan(task, f"{config.max_steps} steps of {config.batch_size} pairs", memory)


def main() -> int:
    return run_command(read(sys.argv[1:]), train, plan)


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
