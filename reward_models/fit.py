"""The one loop that fits a reward model. What is learned is in `losses.py`, and in the script that calls this.

Batches of questions; each step is cut into micro-batches of whole questions, so that answers that are compared stand in
the same one; the loss of a step is its sum over the whole step, divided by the step's pairs, tokens or labelled steps.
"""

from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reward_models.config import RewardModelConfig
from reward_models.data import Example, Split
from reward_models.evaluation_page import write_evaluation
from reward_models.held_out_metrics import Read, Result, mean_loss, step_samples
from reward_models.objectives import Objective
from reward_models.shortcuts import Shortcut, add_shortcuts
from rlhf.data.rows import in_epochs, refuse_larger_step
from rlhf.distributed import share, total
from rlhf.groups import Layout, Rows, whole_micro_batches
from rlhf.models.heads import HeadScorer, Readings, load_with_head, new_weights, read, takes_shared_rows
from rlhf.models.policy import choose_attention
from rlhf.optimizer import backward, in_turn, learning_rate, make_optimizer, optimizer_step
from rlhf.run.directory import BEST
from rlhf.run.session import Session


def load_model(
    session: Session, config: RewardModelConfig, classes: Sequence[str] = ()
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model to train, on its device, with its tokenizer."""
    attention = choose_attention(config.attention, session.device)
    model, tokenizer = load_with_head(
        config.model_name,
        classes=classes,
        attention=attention,
        extra_layers=config.extra_layers,
        lora_rank=config.lora_rank,
        gradient_checkpointing=config.gradient_checkpointing,
    )
    session.settle(model, takes_shared_rows)
    return model, tokenizer


def fit(
    session: Session,
    config: RewardModelConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    split: Split,
    objective: Objective,
    shortcuts: list[Shortcut],
) -> int:
    """Train, stop where validation stops getting better, report on what was held out. Returns the exit code."""
    accelerator, device = session.accelerator, session.accelerator.device
    refuse_larger_step(len(split.train), config.batch_size, what="examples")
    optimizer = make_optimizer(
        model,
        lr=config.lr,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.weight_decay,
        new=new_weights(model, config.extra_layers),
        new_factor=config.new_lr_factor,
    )
    scorer, optimizer = accelerator.prepare(HeadScorer(model), optimizer)
    layout: Layout = {"token_budget": config.token_budget, "shared_prefix": session.shared_prefix}
    best_weights = session.path / BEST

    def reading(examples: Sequence[Example]) -> Read:
        with accelerator.autocast():
            return read(HeadScorer(model), [example.group for example in examples], device=device, **layout)

    def report(step: int) -> Result:
        """On the held-out part: before training and after it, never in between. What no training changes: before."""
        found = reading(split.held_out)
        result = objective.evaluate(found, split.held_out, "held-out")
        add_shortcuts(result, shortcuts)
        session.evaluated(step, result.records if step else [*result.records, *result.baselines])
        if config.samples:
            session.samples(step, step_samples(found, split.held_out, config.samples))
        return result

    def validate(step: int) -> None:
        """Where that is due: keep the best weights by validation loss, and stop where it does not get better."""
        nonlocal best, best_step, finished
        if not finished and not (config.eval_every and step % config.eval_every == 0):
            return
        found = reading(split.validation)
        loss = mean_loss(losses_of(objective, found, split.validation))
        records = objective.evaluate(found, split.validation, "validation").records
        value = [record for record in records if record["metric"] == objective.criterion]
        own = {"data": "validation", "metric": "loss", "value": loss, "n": len(split.validation)}
        session.evaluated(step, [*value, own])
        if best is None or loss < best:
            save_best(model, best_weights, writes=session.run.writes)  # first: it is redone if a signal comes between
            best, best_step = loss, step
        elif config.patience and step - best_step >= config.patience * (config.eval_every or config.max_steps):
            session.console.say(f"validation has not got better since step {best_step}: stopping")
            finished = True

    start, state = session.begin()
    best, best_step = state.get("best"), state.get("best_step", 0)  # validation loss
    done, finished = start, start >= config.max_steps or state.get("stopped_early", False)
    if session.fresh:
        report(start)
    elif session.owes_evaluation and not session.complete(start, validate):
        return session.leave(start)
    while not finished:
        # 1. The questions of this step, by number: the same in every run of this seed.
        with session.watch("data"):
            examples = in_epochs(split.train, seed=config.seed, first=done * config.batch_size, count=config.batch_size)
            units = sum(objective.units(example) for example in examples)
            pieces = share(examples, accelerator)
            if not objective.compares:
                pieces = [part for example in pieces for part in example.parts(config.token_budget)]
            chunks = into_micro_batches(pieces, **layout)

        # 2. Loss and gradient, in micro-batches that together make the step.
        step_loss = 0.0
        with session.watch("update"):
            for rows, chunk in in_turn(chunks, accelerator, scorer):
                rows = rows.to(device)
                loss = objective.loss(in_order(scorer(rows), rows), chunk).sum() / units
                backward(loss, accelerator, session.run.path, rows=rows)
                step_loss += float(loss.detach())
            lr = learning_rate(
                done,
                peak=config.lr,
                warmup_steps=config.warmup_steps,
                max_steps=config.max_steps,
                schedule=config.lr_schedule,
            )
            norm = optimizer_step(accelerator, model, optimizer, lr=lr, max_grad_norm=config.max_grad_norm)

        # 3. Tell, validate, save.
        done += 1
        (step_loss,) = total([step_loss], accelerator)
        tokens = sum(example.tokens for example in examples)
        separately = sum(len(p.group.prompt) * (len(p.group.completions) - 1) for p in examples)
        metrics = {"loss": step_loss, "optim/lr": lr, "optim/grad_norm": norm}
        metrics["rows/tokens_saved"] = separately / (tokens + separately) if session.shared_prefix else 0.0
        session.log(done, metrics, tokens=tokens)
        finished = done == config.max_steps
        evaluated = session.complete(done, validate)
        if finished or done % config.save_every == 0 or session.stopping:
            state = {"best": best, "best_step": best_step, "stopped_early": finished and done < config.max_steps}
            session.save(done, state, evaluated=evaluated)
        if session.stopping:
            return session.leave(done)

    if config.patience and best_step < done:
        accelerator.wait_for_everyone()
        model.load_state_dict(load_file(best_weights, device=str(device)), strict=False)
        session.console.say(f"the weights of step {best_step} are kept: the lowest validation loss, {best:.4f}")
    result = report(done)
    model.config.reward_statistics = statistics(reading(split.validation))
    if accelerator.is_main_process:
        pictures = write_evaluation(session.path, result, title=session.title)
        session.console.say(f"pictures: {pictures}")
    session.finish(model, tokenizer, next_command="uv run python -m reward_models.evaluate {run}")
    return 0


def into_micro_batches(
    examples: Sequence[Example], *, token_budget: int, shared_prefix: bool
) -> list[tuple[Rows, list[Example]]]:
    """Whole examples, at most `token_budget` tokens with padding, the longest first; an example over it goes alone."""
    parts = whole_micro_batches([e.group for e in examples], token_budget=token_budget, shared_prefix=shared_prefix)
    return [(part.rows, [examples[i] for i in part.numbers]) for part in parts]


def in_order(readings: Readings, rows: Rows) -> Readings:
    """Readings in the order of the micro-batch's examples and their answers, whatever the order of rows."""
    order = rows.sequence.argsort()
    return Readings(readings.logits[order], readings.mask[order], readings.last[order])


def losses_of(objective: Objective, found: Read, examples: Sequence[Example]) -> list[Tensor]:
    """The losses of examples that were read without gradient, one example at a time."""
    losses, at = [], 0
    for example in examples:
        own = found[at : at + len(example.group.completions)]
        at += len(own)
        losses.append(objective.loss(_as_readings(own, example), [example]))
    return losses


def _as_readings(own: Read, example: Example) -> Readings:
    """What `HeadScorer` would have returned for one example, where tokens that do not count are not looked at."""
    k = own[0][1].shape[0]
    size = max(len(completion) for completion in example.group.completions)
    logits = torch.zeros(len(own), size, k)
    mask = torch.zeros(len(own), size, dtype=torch.bool)
    last = torch.tensor([len(completion) - 1 for completion in example.group.completions])
    all_counts = example.group.counts or [[True] * len(completion) for completion in example.group.completions]
    for i, ((counted, at_last), counts) in enumerate(zip(own, all_counts, strict=True)):
        mask[i, : len(counts)] = torch.tensor(counts)
        logits[i, last[i]] = at_last
        logits[i][mask[i]] = counted
    return Readings(logits, mask, last)


def statistics(found: Read) -> dict[str, float]:
    """Mean and spread of the model's scores, by which members of an ensemble are put on one scale."""
    last = torch.stack([at_last for _, at_last in found])[:, 0].double()
    return {"mean": float(last.mean()), "std": float(last.std())}


def save_best(model: nn.Module, file: Any, *, writes: bool) -> None:
    """The trained weights of the best step so far, beside and renamed into place."""
    if writes:
        partial = file.with_name(f".{file.name}")
        save_file({n: p.detach().cpu().contiguous() for n, p in model.named_parameters() if p.requires_grad}, partial)
        partial.rename(file)


METRICS = {
    "loss": {"description": "Loss of the step, mean over its pairs, tokens or labelled steps", "unit": "nats"},
    "rows/tokens_saved": {
        "description": "Share of the tokens of separate rows that shared-prefix rows do without",
        "unit": "",
    },
    "optim/lr": {"description": "Learning rate of the step", "unit": ""},
    "optim/grad_norm": {"description": "Norm of the whole gradient before clipping", "unit": ""},
    "speed/tokens_per_s": {"description": "Tokens of questions and answers a second", "unit": "tokens/s"},
    "time/data_s": {"description": "Choosing the batch and laying it in rows", "unit": "s"},
    "time/update_s": {"description": "Forward, backward and optimizer", "unit": "s"},
    "memory/peak_gb": {"description": "Peak memory so far", "unit": "GB"},
}
