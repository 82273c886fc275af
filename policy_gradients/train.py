"""Policy gradients: uv run python -m policy_gradients.train --config policy_gradients/configs/grpo.yaml

Read from top to bottom: sample completions, judge them, compare each with what was to be expected, and make the better
ones more likely. What tells one algorithm from another is in `algorithms/NAME.py`; RLHF Book, chapter 6.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from policy_gradients.config import PolicyGradientConfig
from rlhf.config.command import Command, read_command
from rlhf.errors import run_main
from rlhf.run.command import run_command

if TYPE_CHECKING:
    from rlhf.run.memory_plan import Plan

DEFAULT = Path(__file__).parent / "configs" / "grpo.yaml"


def train(command: Command[PolicyGradientConfig]) -> int:
    from dataclasses import replace

    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from policy_gradients.critic import CriticLearner, explained_variance, reward_to_go, token_rewards, whiten
    from policy_gradients.defaults import resolve, settings_of
    from policy_gradients.diagnostics import METRICS, Adviser, UpdateSums, batch_metrics
    from policy_gradients.ratios import importance
    from policy_gradients.reference import Reference
    from policy_gradients.reward_functions import load_functions
    from policy_gradients.rewards import Judge, load_reward_model
    from policy_gradients.rollout import Rollout, Sampler
    from rlhf.aggregate import Totals, aggregates
    from rlhf.distributed import gather, share, total
    from rlhf.evaluation import evaluate_task
    from rlhf.groups import Group, Layout, micro_batches
    from rlhf.kl import estimators, k3
    from rlhf.logprobs import Scorer, score
    from rlhf.optimizer import backward, in_turn, learning_rate, make_optimizer, optimizer_step
    from rlhf.run.session import open_session
    from rlhf.tasks.mixture import Mixture
    from rlhf.tasks.registry import open_task
    from rlhf.tensors import masked_sum

    config, algorithm = resolve(command.config)
    command = replace(command, config=config)
    assert config.aggregation is not None  # resolve has filled these in
    assert config.kl_estimator is not None
    aggregate, kl_estimate = aggregates[config.aggregation], estimators[config.kl_estimator]
    of_advantage, of_surrogate = settings_of(algorithm.advantage, config), settings_of(algorithm.surrogate, config)
    updates = config.epochs_per_batch * config.steps_per_batch
    asked = {name: it.config for name, it in config.tasks.items()} or {config.task: config.task_config}
    tasks = {name: open_task(name, parameters, answer_in=config.answer_in) for name, parameters in asked.items()}
    task = Mixture(tasks, {n: it.weight for n, it in config.tasks.items()}) if config.tasks else tasks[config.task]
    held_out = {name: it.held_out_problems(config.eval_problems) for name, it in tasks.items()}
    own = {"description": "Mean of your own function", "unit": ""}
    # Before anything is loaded, so that a file that does not run is known at once.
    described = METRICS | {f"reward/{name}": own for name in load_functions(config.reward_functions)}

    title = config.algorithm.upper()
    with open_session(command, described, title=title, headline=["reward/exact", "length/mean"]) as session:
        accelerator, device = session.accelerator, session.accelerator.device
        session.describe(data=task.name, data_fingerprint=task.fingerprint)
        judge = Judge(task, config.reward_weights, config.reward_functions, load_reward_model(config))
        model, tokenizer = session.load_policy()
        sampler = Sampler(model, tokenizer, task, judge, accelerator, config)
        drawn_first = task.train_problems(seed=config.seed, first=0, count=config.prompts_per_step)
        sampler.refuse_unreadable([*(it for problems in held_out.values() for it in problems), *drawn_first])
        reference = Reference(session.load_reference(), config) if config.kl_coef else None
        if reference is not None and config.sync_reference_every:
            accelerator.register_for_checkpointing(reference.model)  # it moves, so it is part of the run's state
        betas = (config.adam_beta1, config.adam_beta2)
        optimizer = make_optimizer(model, lr=config.lr, betas=betas, weight_decay=config.weight_decay)
        layout: Layout = {"token_budget": config.token_budget, "shared_prefix": session.shared_prefix}
        needs_critic = "critic" in algorithm.needs
        critic = CriticLearner(model, config, accelerator, layout, session.path) if needs_critic else None
        scorer, optimizer = accelerator.prepare(Scorer(model), optimizer)
        adviser = Adviser()

        def evaluate(step: int, *, greedy: bool = False) -> None:
            for name, problems in held_out.items():
                result = evaluate_task(
                    model,
                    tokenizer,
                    tasks[name],
                    problems,
                    accelerator,
                    greedy=greedy,
                    system_prompt=config.system_prompt,
                    max_new_tokens=config.max_new_tokens,
                    stop_at=config.stop_at,
                    temperature=config.temperature,
                    top_k=config.top_k,
                    top_p=config.top_p,
                )
                session.evaluated(step, [result])

        def close(step: int) -> None:
            """The evaluation that is due after a step."""
            last = step == config.max_steps
            if last or (config.eval_every and step % config.eval_every == 0):
                evaluate(step)
            if last:
                evaluate(step, greedy=True)

        def score_with(network: PreTrainedModel, groups: list[Group]) -> Tensor:
            """Log-probabilities (n, t) of the whole batch, without gradient."""
            with accelerator.autocast():
                return score(Scorer(network), groups, temperature=config.temperature, device=device, **layout).logp

        def update_policy(part: range, sums: UpdateSums, lr: float) -> tuple[float, float]:
            """One optimizer step on the prompts of `part`, in micro-batches that together make the step."""
            first = part.start * config.group_size
            mask = batch.mask[first : part.stop * config.group_size]
            sequences, tokens = total([int(mask.any(1).sum()), int(mask.sum())], accelerator)
            totals = Totals(max(1, int(sequences)), max(1, int(tokens)), config.max_new_tokens)
            batches, step_loss = micro_batches(batch.groups[part.start : part.stop], **layout), 0.0
            for rows in in_turn(batches, accelerator, scorer):
                rows = rows.to(device)
                n, t = rows.sequence + first, rows.mask.shape[1]
                a, logp_sampler = adv[n, :t], batch.logp_sampler[n, :t]
                scores = scorer(rows, config.temperature)
                # The first step on a fresh batch is on-policy: its own log-probabilities are the old ones.
                old = scores.logp.detach() if logp_old is None else logp_old[n, :t]
                ratio = algorithm.ratio(scores.logp, old, scores.mask) if algorithm.ratio else None
                loss = algorithm.surrogate(scores.logp, ratio, a, **of_surrogate)
                weight = None
                if config.importance != "none":  # the ratio covers what has moved since `old`; this the rest
                    moved = scores.logp if ratio is None else old
                    how = {"correction": config.importance, "cap": config.importance_cap}
                    weight = importance(moved, logp_sampler, scores.mask, **how)
                    loss = loss * weight
                if reference is not None and config.kl_in == "loss":
                    loss = loss + reference.coef * kl_estimate(scores.logp, logp_ref[n, :t])
                loss = aggregate(loss, scores.mask, totals)
                backward(loss, accelerator, session.run.path, rows=rows, adv=a)
                step_loss += float(loss.detach())
                kl = None if reference is None else k3(scores.logp, logp_ref[n, :t])
                clip = {"clip_low": config.clip_low, "clip_high": config.clip_high}
                # What the sampler said of the policy that it sampled from; of a stale batch nobody else knows.
                gap = None if config.staleness else old - logp_sampler
                sums.add(scores, gap=gap, ratio=ratio, adv=a, kl=kl, weight=weight, **clip)
            return step_loss, optimizer_step(accelerator, model, optimizer, lr=lr, max_grad_norm=config.max_grad_norm)

        start, state = session.begin()
        for metrics in session.logged():
            adviser.look(metrics)
        baseline: float | None = state.get("baseline")  # running mean of rewards; None before the first batch
        number: int = state.get("number", 0)  # of the next problem in the training stream
        any_contrast: bool = state.get("any_contrast", False)
        waiting: list[list[Rollout]] = [sampler.from_state(it) for it in state.get("waiting", [])]
        if reference is not None:
            reference.coef = state.get("kl_coef", reference.coef)
        if session.fresh:
            evaluate(start)
            evaluate(start, greedy=True)
        elif session.owes_evaluation and not session.complete(start, close):
            return session.leave(start)

        for step in range(start, config.max_steps):
            # 1. Sample completions of new prompts, and judge them. With staleness, train on those of some steps ago.
            with session.watch("sampling"):
                drawn = number
                while len(waiting) <= config.staleness:
                    rollouts, number = sampler.draw(number, any_contrast_yet=any_contrast)
                    waiting.append(rollouts)
                batch = sampler.batch(waiting.pop(0))
            metrics = batch_metrics(batch, accelerator) | {"groups/drawn": float(number - drawn)}
            (with_contrast,) = total([sum(rollout.contrast for rollout in batch.rollouts)], accelerator)
            any_contrast = any_contrast or with_contrast > 0

            # 2. What the tokens' log-probabilities were, where that is not known from the update itself.
            with session.watch("scoring"):
                off_policy, charged = updates > 1, reference is not None and config.kl_in == "reward"
                # A penalty is for all that was said, also where the loss leaves it out: its reward is in the baseline.
                groups = [replace(group, counts=()) for group in batch.groups] if charged else batch.groups
                if config.staleness:
                    logp_old = batch.logp_sampler  # of the policy that sampled, which only the sampler remembers
                else:
                    logp_old = score_with(model, groups) if off_policy or charged else None
                logp_ref = score_with(reference.model, groups) if reference is not None else torch.empty(0)
                value = critic.values(batch) if critic is not None else None

            # 3. Reward to advantage: how much better than was to be expected. (n, 1), or (n, t) with a critic.
            penalty = torch.zeros_like(batch.logp_sampler)
            if charged and logp_old is not None and reference is not None:
                penalty = reference.coef * kl_estimate(logp_old, logp_ref)
            credit = dict(of_advantage)
            if value is not None:
                reward = token_rewards(batch.reward.flatten().to(device), penalty, batch.mask)
                adv = algorithm.advantage(reward, value, batch.mask, **credit)
                target = adv + value
                adv = whiten(adv, batch.mask, accelerator)
                outcome = reward_to_go(reward, gamma=credit["gamma"])
                metrics["critic/explained_variance"] = explained_variance(value, outcome, batch.mask, accelerator)
            else:
                reward = batch.reward - masked_sum(penalty, batch.said).view_as(batch.reward).cpu()
                # Of all processes: an advantage may look at the whole batch.
                reward = torch.tensor(gather(reward.tolist(), accelerator))
                if "baseline" in algorithm.needs:
                    known = baseline is not None and config.baseline == "running_mean"
                    credit["baseline"] = baseline if known else 0.0
                    mean = float(reward.mean())
                    baseline = mean if baseline is None else 0.9 * baseline + 0.1 * mean
                adv = algorithm.advantage(reward, **credit)
                adv = torch.stack(share(list(adv), accelerator)).reshape(-1, 1).to(device)
                adv = adv.expand(-1, batch.mask.shape[1])

            # 4. Update: one optimizer step for each part of the batch.
            sums, loss, critic_loss = UpdateSums(), 0.0, 0.0
            critic_alone = critic.settings.warmup_batches if critic is not None else 0  # batches, before the policy
            policy_learns = step >= critic_alone
            with session.watch("update"):
                for update in range(updates):
                    size = len(batch.groups) // config.steps_per_batch
                    first = update % config.steps_per_batch * size
                    part = range(first, first + size)
                    if policy_learns:
                        lr = learning_rate(
                            (step - critic_alone) * updates + update,
                            peak=config.lr,
                            warmup_steps=config.warmup_steps,
                            max_steps=(config.max_steps - critic_alone) * updates,
                            schedule=config.lr_schedule,
                        )
                        part_loss, norm = update_policy(part, sums, lr)
                        loss += part_loss / updates
                        metrics |= {"optim/lr": lr, "optim/grad_norm": norm}
                    if critic is not None and value is not None:
                        part_loss, norm = critic.update(batch, part, value, target)
                        critic_loss += part_loss / updates
                        metrics["critic/grad_norm"] = norm

            # 5. Tell what happened; let the reference follow; save; evaluate.
            done = step + 1
            loss, critic_loss = total([loss, critic_loss], accelerator)
            if policy_learns:
                metrics |= {"loss": loss, **sums.means(accelerator, has_ratio=algorithm.ratio is not None)}
            if critic is not None:
                metrics["critic/loss"] = critic_loss
            if reference is not None:
                metrics["policy/kl_coef"] = reference.coef
                if "policy/kl" in metrics:
                    reference.adapt(metrics["policy/kl"])
                reference.follow(model, done)
            tokens = round(metrics["length/mean"] * config.prompts_per_step * config.group_size)
            shown = {"right": f"{metrics['reward/exact']:.2f}", "length": f"{metrics['length/mean']:.0f}"}
            session.log(done, metrics, tokens=tokens, show=shown)
            for text in adviser.look(metrics):
                session.advise(done, text)
            if done == 1 or done % config.sample_every == 0 or done == config.max_steps:
                session.samples(done, batch.samples())
            evaluated = session.complete(done, close)
            if done == config.max_steps or done % config.save_every == 0 or session.stopping:
                state = {"baseline": baseline, "number": number, "any_contrast": any_contrast}
                state["waiting"] = [sampler.to_state(it) for it in waiting]
                if reference is not None:
                    state["kl_coef"] = reference.coef
                session.save(done, state, evaluated=evaluated)
            if session.stopping:
                return session.leave(done)
        session.finish(model, tokenizer, next_command="uv run python -m rlhf.report {run} OTHER_RUN")
    return 0


def main() -> int:
    command = read_command(
        PolicyGradientConfig,
        sys.argv[1:],
        prog="python -m policy_gradients.train",
        description="Train a policy on the reward of its own completions.",
        default_config=DEFAULT,
        fill=_fill,
    )
    return run_command(command, train, plan)


def _fill(config: PolicyGradientConfig) -> PolicyGradientConfig:
    from policy_gradients.defaults import resolve

    return resolve(config)[0]


def plan(config: PolicyGradientConfig) -> "Plan":
    from policy_gradients.defaults import resolve
    from rlhf.run.memory_plan import Plan, memory_needs

    config, _ = resolve(config)
    at_once = min(config.sampling_batch, config.prompts_per_step * config.group_size)
    memory = memory_needs(
        config,
        reference=bool(config.kl_coef),
        own_critic=config.critic is not None and config.critic.backbone == "own",
        judges=config.judges,
        sampled=(at_once, config.max_new_tokens),
    )
    batches = (
        f"{config.max_steps} batches of {config.prompts_per_step} prompts x {config.group_size} completions of up to "
        f"{config.max_new_tokens} tokens"
    )
    return Plan(f"{config.algorithm} on {' + '.join(config.tasks) or config.task}", batches, memory)


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
