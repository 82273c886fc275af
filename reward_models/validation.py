"""Early stopping: validation, and the weights of the step where its loss was lowest."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from reward_models.batches import in_order, into_micro_batches
from reward_models.config import RewardModelConfig
from reward_models.examples import Example
from reward_models.held_out_metrics import Read
from reward_models.losses import Objective
from rlhf.atomic import replacing
from rlhf.groups import Layout
from rlhf.models.heads import HeadScorer
from rlhf.run.directory import BEST
from rlhf.run.session import Session

VALIDATION = "validation"  # the name of the data in eval.jsonl


class Validation:
    """Measures the validation set, keeps the best weights on disk, and ends a run that has stopped getting better.

    Args:
        state: of the checkpoint that the run goes on from, as `state` made it; empty at the start.
    """

    def __init__(
        self,
        session: Session,
        model: PreTrainedModel,
        examples: Sequence[Example],
        objective: Objective,
        state: Mapping[str, Any],
    ):
        self.session, self.model, self.examples, self.objective = session, model, examples, objective
        self.config: RewardModelConfig = session.command.config
        self.best: float | None = state.get("best")  # the lowest loss so far
        self.best_step: int = state.get("best_step", 0)
        self.file = session.path / BEST
        if state.get("stopped_early"):
            session.finish_early()

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        early = self.session.finished and self.session.reached < self.config.max_steps
        return {"best": self.best, "best_step": self.best_step, "stopped_early": early}

    def check(self, step: int) -> None:
        """Validate after `step` steps; keep the weights if they are the best so far, and stop if none were for long."""
        accelerator, layout = self.session.accelerator, self.session.layout
        loss, outputs = measure(self.model, self.examples, self.objective, accelerator, layout)
        records = self.objective.evaluate(outputs, self.examples, VALIDATION).records
        criterion = [record for record in records if record["metric"] == self.objective.criterion]
        loss_record = {"data": VALIDATION, "metric": "loss", "value": loss, "n": len(self.examples)}
        self.session.log_evaluation(step, [*criterion, loss_record])
        if self.best is None or loss < self.best:
            # The file first: if a signal comes between, the validation is done again.
            save_trained(self.model, self.file, writes=self.session.run.writes)
            self.best, self.best_step = loss, step
            return
        patience = self.config.patience * (self.config.eval_every or self.config.max_steps)
        if self.config.patience and step - self.best_step >= patience:
            self.session.console.say(f"validation has not got better since step {self.best_step}: stopping")
            self.session.finish_early()

    def restore_best(self) -> None:
        """Give the model the weights of the best step, if training went on behind it and patience is set."""
        if not self.config.patience or self.best_step >= self.session.reached:
            return
        accelerator, step = self.session.accelerator, self.best_step
        accelerator.wait_for_everyone()
        self.model.load_state_dict(load_file(self.file, device=str(accelerator.device)), strict=False)
        self.session.forget_results_after(step, data=VALIDATION)
        self.session.console.say(f"the weights of step {step} are kept: the lowest validation loss, {self.best:.4f}")


@torch.no_grad()
def measure(
    model: PreTrainedModel, examples: Sequence[Example], objective: Objective, accelerator: Accelerator, layout: Layout
) -> tuple[float, Read]:
    """The mean of all loss terms of the examples, in micro-batches as in training, and the outputs for each answer."""
    scorer = HeadScorer(model)
    losses = []
    outputs: dict[int, Read] = {}
    for batch in into_micro_batches(examples, objective, layout):
        rows = batch.rows.to(accelerator.device)
        with accelerator.autocast():
            output = in_order(scorer(rows), rows)
        losses.append(objective.loss(output, batch.examples).cpu())
        each = iter(output.by_completion())
        for number, example in zip(batch.numbers, batch.examples, strict=True):
            outputs[number] = [next(each) for _ in example.group.completions]
    mean = float(torch.cat(losses).double().mean())
    return mean, [one for number in sorted(outputs) for one in outputs[number]]


def save_trained(model: nn.Module, file: Path, *, writes: bool) -> None:
    """The trained weights, whole or not at all."""
    if writes:
        weights = {n: p.detach().cpu().contiguous() for n, p in model.named_parameters() if p.requires_grad}
        with replacing(file) as partial:
            save_file(weights, partial)
