"""The KL reference: frozen or slowly updated, with a fixed or adaptive coefficient."""

from torch import nn
from transformers import PreTrainedModel

from policy_gradients.defaults import Recipe
from rlhf.models.policy import move_towards
from rlhf.run.session import Session

# Ziegler et al. 2019 (arXiv 1909.08593), section 2.2: the coefficient moves by at most 0.1 * 0.2 = 2 % a batch.
GAIN = 0.1
MAX_ERROR = 0.2


class Reference:
    def __init__(self, model: PreTrainedModel, recipe: Recipe):
        config = recipe.config
        self.model = model
        self.coef = recipe.kl.kl_coef
        self.target = config.kl_target
        self.every = config.sync_reference_every
        self.mix = config.sync_reference_mix

    @classmethod
    def load(cls, session: Session, recipe: Recipe) -> "Reference":
        """The model as it was before training."""
        reference = cls(session.load_reference(), recipe)
        if reference.every:
            session.accelerator.register_for_checkpointing(reference.model)  # it moves: part of the run's state
        return reference

    def end_step(self, policy: nn.Module, step: int, *, kl: float | None) -> dict[str, float]:
        """Adapt the coefficient to the KL of the step, if it was measured, and follow the policy. Returns metrics."""
        metrics = {"policy/kl_coef": self.coef}
        if kl is not None:
            self.adapt(kl)
        self.follow(policy, step)
        return metrics

    def adapt(self, kl: float) -> None:
        """coef * (1 + 0.1 * clamp(kl / target - 1, -0.2, 0.2)); kl in nats per token, of the batch just trained on.

        The target of the paper is in nats per completion.
        """
        if self.target is not None:
            self.coef *= 1 + GAIN * min(MAX_ERROR, max(-MAX_ERROR, kl / self.target - 1))

    def follow(self, policy: nn.Module, step: int) -> None:
        """Move towards the policy after every `every` batches; never if `every` is 0."""
        if self.every and step % self.every == 0:
            move_towards(self.model, policy, mix=self.mix)
