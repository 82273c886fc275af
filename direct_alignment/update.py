"""The update: one optimizer step of direct alignment, in micro-batches whose losses add up to the step's."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from direct_alignment.data import Example
from direct_alignment.diagnostics import StepSums
from direct_alignment.log_ratios import StepLoss, compare, lengths, sequence_logp, shared_logp, sharper_logp
from direct_alignment.loss import Loss
from rlhf.distributed import all_reduce_sum, local_shard
from rlhf.groups import whole_micro_batches
from rlhf.logprobs import Scorer
from rlhf.optimizer import backward, in_turn, optimizer_step
from rlhf.run.session import Session


class PolicyLearner:
    """A policy with its optimizer.

    Args:
        settings: of the loss, by name.
    """

    def __init__(self, session: Session, model: PreTrainedModel, loss: Loss, settings: Mapping[str, float]):
        self.session, self.model, self.loss, self.settings = session, model, loss, settings
        self.scorer, self.optimizer = session.prepare(Scorer(model), session.make_optimizer(model))

    def update(
        self, examples: Sequence[Example], s_mismatched: Float[Tensor, " k"] | None, *, lr: float
    ) -> tuple[dict[str, float], int]:
        """One optimizer step. Returns the step's metrics, and how many completion tokens it was trained on.

        Args:
            examples: of the whole step, the same in every process, with the reference's log-probabilities.
            s_mismatched: log-ratios of completions under prompts of others, for a loss that needs them.
            lr: learning rate of this step.
        """
        accelerator, layout = self.session.accelerator, self.session.layout
        examples_here = local_shard(list(examples), accelerator)
        pairs = all(len(example.desirable) == 2 for example in examples)
        sums = StepSums(self.loss, self.settings)
        with self.session.watch("update"):
            parts = whole_micro_batches([example.group for example in examples_here], **layout)
            cut = len(parts) > 1 or accelerator.num_processes > 1
            step_loss = StepLoss(self.loss, self.settings, Scorer(self.model), examples, accelerator, layout, cut=cut)
            sharper = "sharper" in self.loss.needs
            for part in in_turn(parts, accelerator, self.scorer, calls=2 if sharper else 1):
                rows = part.rows.to(accelerator.device)
                of_sharper = sharper_logp(self.scorer, rows) if sharper else None
                scores = self.scorer(rows)
                logp = sequence_logp(scores, rows)  # (c,)
                of_shared = shared_logp(scores, rows) if "shared" in self.loss.needs else None
                some = [examples_here[n] for n in part.numbers]
                completions = compare(logp, lengths(rows), some, s_mismatched, of_shared, of_sharper)
                loss = step_loss.part(completions, part.numbers)
                backward(loss, accelerator, self.session.path, rows=rows, completions=completions)
                sums.add(completions, pairs=pairs)
            max_grad_norm = self.session.config.max_grad_norm
            norm = optimizer_step(accelerator, self.scorer, self.optimizer, lr=lr, max_grad_norm=max_grad_norm)
        (tokens,) = all_reduce_sum([sums.tokens], accelerator)
        metrics = {"loss": step_loss.total(), **sums.means(accelerator), "optim/lr": lr, "optim/grad_norm": norm}
        return metrics, round(tokens)
