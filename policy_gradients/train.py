"""Policy gradients: uv run python -m policy_gradients.train --config policy_gradients/configs/grpo.yaml

Read from top to bottom: sample completions, judge them, compare each with what was to be expected, and make the better
ones more likely. What tells one algorithm from another is in `algorithms/NAME.py`; RLHF Book, chapter 6.
"""

import sys
from pathlib import Path

from policy_gradients.config import PolicyGradientConfig
from rlhf.config import Command, read_command, show
from rlhf.errors import UserError, run_main

DEFAULT = Path(__file__).parent / "configs" / "grpo.yaml"


def train(command: Command[PolicyGradientConfig]) -> int:
    from dataclasses import replace

    from torch import Tensor
    from transformers import PreTrainedModel

    from policy_gradients.diagnostics import METRICS, Adviser, UpdateSums, batch_metrics
    from policy_gradients.resolve import resolve
    from policy_gradients.rollout import collect
    from rlhf import checkpoints
    from rlhf.aggregate import Totals, aggregates
    from rlhf.evaluation import evaluate_task
    from rlhf.groups import Layout, micro_batches
    from rlhf.kl import estimators, k3
    from rlhf.loop import check_finite, gradients_flow, learning_rate, make_optimizer, optimizer_step, share, total
    from rlhf.scoring import Scorer, score
    from rlhf.session import open_session
    from rlhf.tasks import Task
    from rlhf.tensors import masked_sum

    config, algorithm = resolve(command.config)
    command = replace(command, config=config)
    assert config.aggregation is not None  # resolve has filled these in
    assert config.kl_estimator is not None
    assert config.kl_coef is not None
    aggregate, kl_estimate, kl_coef = aggregates[config.aggregation], estimators[config.kl_estimator], config.kl_coef
    settings = {key: getattr(config, key) for key in ("clip_low", "clip_high") if key in algorithm.settings}
    updates = config.epochs_per_batch * config.steps_per_epoch
    task = Task(config.task, config.task_config, answer_in=config.answer_in)
    held_out = task.held_out_problems(config.eval_problems)

    title = config.algorithm.upper()
    with open_session(command, METRICS, title=title, headline=["reward/exact", "length/mean"]) as session:
        accelerator, device = session.accelerator, session.accelerator.device
        if config.prompts_per_step % (accelerator.num_processes * config.steps_per_epoch):
            raise UserError(
                f"prompts_per_step {config.prompts_per_step} is not a multiple of {accelerator.num_processes} "
                f"processes x steps_per_epoch {config.steps_per_epoch}"
            )
        session.describe(data=config.task, data_fingerprint=task.fingerprint)
        model, tokenizer = session.load_policy()
        reference = session.load_reference() if kl_coef else None
        optimizer = make_optimizer(
            model, lr=config.lr, betas=(config.adam_beta1, config.adam_beta2), weight_decay=config.weight_decay
        )
        scorer, optimizer = accelerator.prepare(Scorer(model), optimizer)
        layout: Layout = {"token_budget": config.token_budget, "shared_prefix": session.shared_prefix}
        adviser = Adviser()

        def evaluate(step: int, *, greedy: bool = False) -> None:
            limits = {"max_new_tokens": config.max_new_tokens, "system_prompt": config.system_prompt}
            result = evaluate_task(model, tokenizer, task, held_out, accelerator, greedy=greedy, **limits)
            session.evaluated(step, [result])

        def score_with(network: PreTrainedModel) -> Tensor:
            """Log-probabilities (n, t) of the whole batch, without gradient."""
            scorer, groups, temperature = Scorer(network), rollouts.groups, config.temperature
            with accelerator.autocast():
                return score(scorer, groups, temperature=temperature, device=device, **layout).logp

        start, state = session.resume()
        baseline: float | None = state.get("baseline")  # running mean of rewards; None before the first batch
        if start == 0:
            evaluate(0)
            evaluate(0, greedy=True)

        for step in range(start, config.max_steps):
            # 1. Sample completions of new prompts, and judge them.
            with session.watch("sampling"):
                numbers = range(step * config.prompts_per_step, (step + 1) * config.prompts_per_step)
                problems = task.train_problems(seed=config.seed, first=numbers.start, count=len(numbers))
                numbered = share(list(zip(numbers, problems, strict=True)), accelerator)
                rollouts = collect(model, tokenizer, task, numbered, accelerator, config)
            metrics = batch_metrics(rollouts, accelerator)

            # 2. What the tokens' log-probabilities were, where that is not known from the update itself.
            with session.watch("scoring"):
                logp_old = score_with(model) if updates > 1 else None
                logp_ref = score_with(reference) if reference is not None else None

            # 3. Reward to advantage: how much better than was to be expected.
            reward = rollouts.reward
            if logp_ref is not None and config.kl_in == "reward":
                penalty = masked_sum(kl_estimate(rollouts.logp_sampler, logp_ref), rollouts.mask)
                reward = reward - kl_coef * penalty.view_as(reward).cpu()
            if "baseline" in algorithm.needs:
                expected = baseline if baseline is not None and config.baseline == "running_mean" else 0.0
                adv = algorithm.advantage(reward, baseline=expected)
                mean = metrics["reward/mean"]
                baseline = mean if baseline is None else 0.9 * baseline + 0.1 * mean
            else:
                adv = algorithm.advantage(reward)
            adv = adv.reshape(-1, 1).to(device)  # (n, 1)

            # 4. Update: one optimizer step for each part of the batch, in micro-batches that together make the step.
            sums, step_loss = UpdateSums(), 0.0
            with session.watch("update"):
                for update in range(updates):
                    b, g = rollouts.reward.shape
                    size = b // config.steps_per_epoch
                    first = update % config.steps_per_epoch * size
                    part, rows_of_part = rollouts.take(range(first, first + size)), slice(first * g, (first + size) * g)
                    sequences, tokens = total([size * g, int(part.mask.sum())], accelerator)
                    totals = Totals(int(sequences), int(tokens), config.max_new_tokens)
                    batches = micro_batches(part.groups, **layout)
                    for i, rows in enumerate(batches):
                        rows = rows.to(device)
                        n, t = rows.sequence + rows_of_part.start, rows.mask.shape[1]
                        with gradients_flow(accelerator, scorer, last=i == len(batches) - 1):
                            scores = scorer(rows, config.temperature)
                            # The first step on a batch is on-policy: its own log-probabilities are the old ones.
                            old = scores.logp.detach() if logp_old is None else logp_old[n, :t]
                            ratio = algorithm.ratio(scores.logp, old, scores.mask) if algorithm.ratio else None
                            loss = algorithm.surrogate(scores.logp, ratio, adv[n], **settings)
                            if logp_ref is not None and config.kl_in == "loss":
                                loss = loss + kl_coef * kl_estimate(scores.logp, logp_ref[n, :t])
                            loss = aggregate(loss, scores.mask, totals)
                            check_finite(loss, session.run.path, rows=rows, adv=adv[n])
                            accelerator.backward(loss * accelerator.num_processes)  # DDP takes the mean over processes
                        step_loss += float(loss.detach())
                        sums.add(
                            scores,
                            logp_sampler=rollouts.logp_sampler[n, :t],
                            ratio=ratio,
                            adv=adv[n],
                            kl=None if logp_ref is None else k3(scores.logp, logp_ref[n, :t]),
                            clip=(settings["clip_low"], settings["clip_high"]) if settings else None,
                        )
                    lr = learning_rate(
                        step * updates + update,
                        peak=config.lr,
                        warmup_steps=config.warmup_steps,
                        max_steps=config.max_steps * updates,
                        schedule=config.lr_schedule,
                    )
                    norm = optimizer_step(accelerator, model, optimizer, lr=lr, max_grad_norm=config.max_grad_norm)

            # 5. Tell what happened; save; evaluate.
            done = step + 1
            (step_loss,) = total([step_loss / updates], accelerator)
            metrics = {"loss": step_loss, **metrics, **sums.means(accelerator, has_ratio=algorithm.ratio is not None)}
            metrics |= {"optim/lr": lr, "optim/grad_norm": norm}
            tokens = round(metrics["length/mean"] * config.prompts_per_step * config.group_size)
            shown = {"right": f"{metrics['reward/exact']:.2f}", "length": f"{metrics['length/mean']:.0f}"}
            session.log(done, metrics, tokens=tokens, show=shown)
            for text in adviser.look(metrics):
                session.advise(done, text)
            if done == 1 or done % config.sample_every == 0 or done == config.max_steps:
                session.samples(done, rollouts.samples())
            last = done == config.max_steps
            if last or (config.eval_every and done % config.eval_every == 0):
                evaluate(done)
            if last:
                evaluate(done, greedy=True)
            if last or done % config.save_every == 0 or session.interrupted:
                state = {"baseline": baseline}
                checkpoints.save(accelerator, session.path, done, state, keep=config.keep_checkpoints)
            if session.interrupted:
                return session.leave(done)
        session.finish(model, tokenizer, next_command=f"uv run python -m rlhf.report {session.path} OTHER_RUN")
    return 0


def main() -> int | None:
    command = read_command(
        PolicyGradientConfig,
        sys.argv[1:],
        prog="python -m policy_gradients.train",
        description="Train a policy on the reward of its own completions.",
        default_config=DEFAULT,
    )
    if command.show_config:
        print(show(command))
        return 0
    if command.plan:
        return show_needs(command)
    return train(command)


def show_needs(command: Command[PolicyGradientConfig]) -> int:
    from policy_gradients.resolve import resolve
    from rlhf.plan import plan, show_plan

    config, _ = resolve(command.config)
    at_once = min(config.sampling_batch, config.prompts_per_step * config.group_size)
    print(
        f"{config.algorithm} on {config.task}, profile {command.profile} ({command.profile_reason}): "
        f"{config.max_steps} batches of {config.prompts_per_step} prompts x {config.group_size} completions of up to "
        f"{config.max_new_tokens} tokens, model {config.model_name}, run directory {config.output_dir}"
    )
    print(show_plan(plan(config, reference=bool(config.kl_coef), sampled=(at_once, config.max_new_tokens))))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
