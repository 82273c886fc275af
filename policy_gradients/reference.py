"""The KL reference: frozen or slowly updated, with a fixed or adaptive coefficient.

It is the model as it was before training; with LoRA the weights under the adapters, so that no second model is needed.
"""

from collections.abc import Generator
from contextlib import contextmanager

from transformers import PreTrainedModel

from policy_gradients.defaults import Recipe
from rlhf.models.frozen import without_adapters
from rlhf.models.offload import on_device
from rlhf.models.policy import move_towards
from rlhf.run.session import Session

# Ziegler et al. 2019 (arXiv 1909.08593), section 2.2: the coefficient moves by at most 0.1 * 0.2 = 2 % a batch.
GAIN = 0.1
MAX_ERROR = 0.2


class Reference:
    """The model that the KL is measured against, and the coefficient of the KL.

    Args:
        policy: the model that is trained.
        copy: a model of its own; None where the reference lies under the policy's adapters.
    """

    def __init__(self, policy: PreTrainedModel, copy: PreTrainedModel | None, recipe: Recipe):
        config = recipe.config
        self.policy = policy
        self.copy = copy
        self.coef = recipe.kl.kl_coef
        self.target = config.kl_target
        self.every = config.sync_reference_every
        self.mix = config.sync_reference_mix

    @classmethod
    def load(cls, session: Session, policy: PreTrainedModel, recipe: Recipe) -> "Reference":
        """The reference of a run."""
        config = recipe.config
        copy = None if config.lora_rank else session.load_reference(moves=bool(config.sync_reference_every))
        if copy is not None and config.sync_reference_every:
            session.accelerator.register_for_checkpointing(copy)  # it moves: part of the run's state
        return cls(policy, copy, recipe)

    @contextmanager
    def network(self) -> Generator[PreTrainedModel]:
        """The reference as it is now, to score with."""
        if self.copy is None:
            with without_adapters(self.policy):
                yield self.policy
        else:
            with on_device(self.copy, self.policy.device):
                yield self.copy

    def end_step(self, step: int, *, kl: float | None) -> dict[str, float]:
        """Adapt the coefficient to the KL of the step, if it was measured, and follow the policy. Returns metrics."""
        metrics = {"policy/kl_coef": self.coef}
        if kl is not None:
            self.adapt(kl)
        self.follow(step)
        return metrics

    def adapt(self, kl: float) -> None:
        """coef * (1 + 0.1 * clamp(kl / target - 1, -0.2, 0.2)); kl in nats per token, of the batch just trained on.

        The target of the paper is in nats per completion.
        """
        if self.target is not None:
            self.coef *= 1 + GAIN * min(MAX_ERROR, max(-MAX_ERROR, kl / self.target - 1))

    def follow(self, step: int) -> None:
        """Move towards the policy after every `every` batches; never if `every` is 0."""
        if self.copy is not None and self.every and step % self.every == 0:
            move_towards(self.copy, self.policy, mix=self.mix)
