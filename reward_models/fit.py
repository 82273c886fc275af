"""The training loop of every reward model. What is learned is in `losses.py`, and in the script that calls this.

Batches of questions; each step is cut into micro-batches of whole questions, so that answers that are compared stand in
the same one. The loss of a step is the sum of its loss terms, divided by their number: one term for a question's pairs,
for a token, or for a labelled step.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reward_models.batches import in_order, into_micro_batches
from reward_models.config import RewardModelConfig
from reward_models.evaluation_page import write_evaluation
from reward_models.examples import Example, Split
from reward_models.held_out_metrics import Read, Result, step_samples
from reward_models.losses import Objective
from reward_models.shortcuts import Shortcut, add_shortcuts
from reward_models.validation import Validation
from rlhf.data.rows import in_epochs, refuse_larger_step
from rlhf.distributed import all_reduce_sum, local_shard
from rlhf.models.heads import HeadScorer, load_with_head, new_weights, read, takes_shared_rows
from rlhf.models.lora import Lora
from rlhf.models.policy import choose_attention
from rlhf.optimizer import backward, in_turn, optimizer_step
from rlhf.run.result import RunResult
from rlhf.run.session import Session


def load_model(
    session: Session, config: RewardModelConfig, classes: Sequence[str] = ()
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model to train, on its device, with its tokenizer."""
    attention = choose_attention(config.attention, session.device)
    model, tokenizer = load_with_head(
        config.model_name,
        tokenizer=session.load_tokenizer(),
        classes=classes,
        attention=attention,
        extra_layers=config.extra_layers,
        lora=Lora.of(config),
        gradient_checkpointing=config.gradient_checkpointing,
    )
    session.place(model, takes_shared_rows)
    return model, tokenizer


def fit(
    session: Session,
    config: RewardModelConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    split: Split,
    objective: Objective,
    shortcuts: list[Shortcut],
) -> RunResult:
    """Train, stop early by the validation loss, measure on held-out data."""
    accelerator = session.accelerator
    refuse_larger_step(len(split.train), config.batch_size, what="examples")
    optimizer = session.make_optimizer(
        model, new=new_weights(model, config.extra_layers), new_factor=config.new_lr_factor
    )
    scorer, optimizer = session.prepare(HeadScorer(model), optimizer)
    _, state = session.begin()
    validation = Validation(session, model, split.validation, objective, state)

    def evaluate(step: int) -> None:
        """The held-out part before training; then validation alone, since held-out data must not choose the weights."""
        if session.is_first(step):
            report(session, model, split.held_out, objective, shortcuts, step)
        else:
            validation.check(step)

    for step in session.steps(evaluate):
        # 1. The questions of this step, the same in every process, and how many loss terms they have.
        with session.watch("data"):
            examples = in_epochs(split.train, seed=config.seed, first=step * config.batch_size, count=config.batch_size)
            loss_terms = sum(objective.loss_terms(example) for example in examples)
            micro_batches = into_micro_batches(local_shard(examples, accelerator), objective, session.layout)

        # 2. One optimizer step, in micro-batches whose losses add up to the step's.
        step_loss = 0.0
        with session.watch("update"):
            for batch in in_turn(micro_batches, accelerator, scorer):
                rows = batch.rows.to(accelerator.device)
                output = in_order(scorer(rows), rows)
                loss = objective.loss(output, batch.examples).sum() / loss_terms
                backward(loss, accelerator, session.path, rows=rows)
                step_loss += float(loss.detach())
            lr = session.learning_rate(step)
            norm = optimizer_step(accelerator, scorer, optimizer, lr=lr, max_grad_norm=config.max_grad_norm)

        # 3. Log, validate, save.
        done = step + 1
        (step_loss,) = all_reduce_sum([step_loss], accelerator)
        metrics = {"loss": step_loss, "optim/lr": lr, "optim/grad_norm": norm}
        metrics["rows/tokens_saved"] = tokens_saved(examples) if session.shared_prefix else 0.0
        session.log(done, metrics, tokens=sum(example.tokens for example in examples))
        session.end_step(done, state=validation.state)

    if not session.stopping:
        validation.restore_best()
        result = report(session, model, split.held_out, objective, shortcuts, session.reached)
        model.config.reward_statistics = statistics(outputs(session, model, split.validation))
        if accelerator.is_main_process:
            pictures = write_evaluation(session.path, result, title=session.title)
            session.console.say(f"pictures: {pictures}")
    return session.end(model, tokenizer, next_command="uv run python -m reward_models.evaluate {run}")


def report(
    session: Session,
    model: PreTrainedModel,
    held_out: Sequence[Example],
    objective: Objective,
    shortcuts: list[Shortcut],
    step: int,
) -> Result:
    """Measure the held-out part, write records and samples. What no training changes is recorded before it alone."""
    found = outputs(session, model, held_out)
    result = objective.evaluate(found, held_out, "held-out")
    add_shortcuts(result, shortcuts)
    session.log_evaluation(step, result.records if step else [*result.records, *result.baselines])
    if count := session.command.config.samples:
        session.log_samples(step, step_samples(found, held_out, count))
    return result


def outputs(session: Session, model: PreTrainedModel, examples: Sequence[Example]) -> Read:
    """The head's outputs for every answer of the examples, without gradient."""
    groups = [example.group for example in examples]
    with session.accelerator.autocast():
        return read(HeadScorer(model), groups, device=session.accelerator.device, **session.layout)


def tokens_saved(examples: Sequence[Example]) -> float:
    """Share of the tokens of separate rows that shared-prefix rows do without: the prompts of all answers but one."""
    tokens = sum(example.tokens for example in examples)
    repeated = sum(len(example.group.prompt) * (len(example.group.completions) - 1) for example in examples)
    return repeated / (tokens + repeated)


def statistics(found: Read) -> dict[str, float]:
    """Mean and spread of the model's scores, by which members of an ensemble are put on one scale."""
    last = torch.stack([at_last for _, at_last in found])[:, 0].double()
    return {"mean": float(last.mean()), "std": float(last.std())}


METRICS = {
    "loss": {"description": "Loss of the step, mean over its pairs, tokens or labelled steps", "unit": "nats"},
    "rows/tokens_saved": {
        "description": "Share of the tokens of separate rows that shared-prefix rows do without",
        "unit": "",
    },
    "speed/tokens_per_s": {"description": "Tokens of questions and answers a second", "unit": "tokens/s"},
    "time/data_s": {"description": "Choosing the batch and laying it in rows", "unit": "s"},
}
