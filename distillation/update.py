"""The student's optimizer steps: the loss of each token against what the teacher says of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from distillation.batches import Answers, by_teacher, padded
from distillation.config import JSD_BETA, DistillationConfig
from distillation.diagnostics import StepSums
from distillation.distributions import Compared, TeacherStates, compare
from distillation.objectives import Divergence, divergence_of, sampled_token, sequence
from distillation.teachers import Teachers
from rlhf.aggregate import Totals, token_mean
from rlhf.distributed import all_reduce_sum
from rlhf.errors import UserError
from rlhf.groups import Group, Rows, micro_batches
from rlhf.logprobs import hidden_states
from rlhf.optimizer import backward, in_turn, optimizer_step
from rlhf.run.session import Session
from rlhf.tensors import token_logp


class Student(nn.Module):
    """A causal language model whose forward pass compares it with a teacher, token by token.

    A module rather than a function, so that DDP and FSDP can wrap it: their hooks run around `forward`.
    """

    def __init__(self, model: PreTrainedModel, divergence: Divergence, *, temperature: float):
        super().__init__()
        self.model = model
        self.divergence, self.temperature = divergence, temperature

    def forward(self, rows: Rows, teacher: TeacherStates | None = None) -> Compared:
        """(n, t) each, zero where the mask is False. Without a teacher, `logp` and `entropy` alone."""
        states = hidden_states(self.model, rows).flatten(0, 1)[rows.logit_index[rows.mask]]
        head = self.model.get_output_embeddings().weight
        target = rows.labels[rows.mask]
        if teacher is None:
            logp, entropy = token_logp(states, head, target, temperature=self.temperature)
            nothing = torch.zeros_like(entropy)
            found = Compared(logp, nothing, nothing, nothing, nothing, entropy)
        else:
            found = compare(
                states,
                head,
                target,
                teacher._replace(hidden=teacher.hidden[rows.mask]),
                divergence=self.divergence,
                temperature=self.temperature,
            )
        grid = states.new_zeros(rows.mask.shape, dtype=torch.float32)
        return Compared(*[grid.masked_scatter(rows.mask, measure) for measure in found])


@dataclass(frozen=True)
class Scored:
    """The answers that one teacher scores, with what it says of them."""

    answers: list[Answers]
    teacher: TeacherStates | None  # hidden: (n, t, e); None: the objective asks for the texts alone
    logp_sampler: Float[Tensor, "n t"]

    def teacher_of(self, rows: Rows) -> TeacherStates | None:
        """The teacher's side of a micro-batch of these answers."""
        if self.teacher is None:
            return None
        return self.teacher._replace(hidden=self.teacher.hidden[rows.index, : rows.mask.shape[1]])


class Learner:
    """The student with its optimizer."""

    def __init__(self, session: Session, model: PreTrainedModel, teachers: Teachers | None):
        self.session, self.model, self.teachers = session, model, teachers
        self.config: DistillationConfig = session.command.config
        config = self.config
        divergence = divergence_of(config.objective, beta=config.jsd_beta or JSD_BETA, k=config.teacher_top_k)
        rows = len(model.get_output_embeddings().weight)
        if config.teacher_top_k is not None and config.teacher_top_k >= rows:
            raise UserError(
                f"teacher_top_k {config.teacher_top_k}: the model has {rows} tokens; null compares all of them"
            )
        student = Student(model, divergence, temperature=config.temperature)
        self.student, self.optimizer = session.prepare(student, session.make_optimizer(model))
        self.scale = config.temperature**2 if config.scale_by_temperature else 1.0

    def score(self, answers: Sequence[Answers]) -> list[Scored]:
        """What each teacher says of the completions that it is to score, as teachers and student are now."""
        device = self.session.accelerator.device
        return [
            Scored(
                own,
                self.teachers.states(name, own) if self.teachers is not None else None,
                padded([logp for one in own for logp in one.logp_sampler], device),
            )
            for name, own in by_teacher(answers).items()
        ]

    def update(self, scored: Sequence[Scored], sums: StepSums, *, lr: float) -> None:
        """One optimizer step, in micro-batches whose shares of the loss add up to the step's."""
        accelerator, session = self.session.accelerator, self.session
        groups = [one.group for part in scored for one in part.answers]
        totals = self._totals(groups)
        parts = [
            (part, rows)
            for part in scored
            for rows in micro_batches([one.group for one in part.answers], **session.layout)
        ]
        step_loss = 0.0
        for part, rows in in_turn(parts, accelerator, self.student):
            rows = rows.to(accelerator.device)
            compared = self.student(rows, part.teacher_of(rows))
            logp_sampler = part.logp_sampler[rows.index, : rows.mask.shape[1]]
            loss = self.scale * token_mean(self._loss(compared, logp_sampler), rows.mask, totals)
            backward(loss, accelerator, session.path, rows=rows)
            step_loss += float(loss.detach())
            sums.add(compared, rows, part.answers)
        norm = optimizer_step(accelerator, self.student, self.optimizer, lr=lr, max_grad_norm=self.config.max_grad_norm)
        sums.end_update(step_loss, lr=lr, grad_norm=norm)

    def _loss(self, compared: Compared, logp_sampler: Float[Tensor, "n t"]) -> Float[Tensor, "n t"]:
        """The loss of each token, nats."""
        if self.config.objective == "sampled_token":
            return sampled_token(compared.logp, logp_sampler, compared.logp_teacher)
        return compared.divergence if self.config.compares else sequence(compared.logp)

    def _totals(self, groups: Sequence[Group]) -> Totals:
        """The denominators of an optimizer step, over all its micro-batches and processes."""
        counted = [
            sum(group.loss_mask[i]) if group.loss_mask else len(completion)
            for group in groups
            for i, completion in enumerate(group.completions)
        ]
        found = all_reduce_sum([sum(n > 0 for n in counted), sum(counted)], self.session.accelerator)
        sequences, tokens = map(int, found)
        return Totals(max(1, sequences), max(1, tokens), self.config.max_new_tokens)
