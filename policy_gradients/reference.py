"""The policy that a KL penalty holds on to: frozen, or following from afar; at a fixed price, or one that adapts."""

import torch
from torch import nn
from transformers import PreTrainedModel

from policy_gradients.config import PolicyGradientConfig

# Ziegler et al. 2019 (arXiv 1909.08593), section 2.2: the coefficient moves by at most 0.1 * 0.2 = 2 % a batch.
GAIN, MAX_ERROR = 0.1, 0.2


class Reference:
    def __init__(self, model: PreTrainedModel, config: PolicyGradientConfig):
        assert config.kl_coef is not None  # resolve has filled it in
        self.model, self.coef = model, config.kl_coef
        self.target, self.every, self.mix = config.kl_target, config.sync_reference_every, config.sync_reference_mix

    def adapt(self, kl: float) -> None:
        """coef * (1 + 0.1 * clamp(kl / target - 1, -0.2, 0.2)); kl in nats per token, of the batch just trained on.

        (The paper's target is nats per completion.)
        """
        if self.target is not None:
            self.coef *= 1 + GAIN * min(MAX_ERROR, max(-MAX_ERROR, kl / self.target - 1))

    @torch.no_grad()
    def follow(self, policy: nn.Module, step: int) -> None:
        """Every so many batches, reference = (1 - mix) * reference + mix * policy. Gorbatovski et al. 2024 (TR-DPO)."""
        if self.every and step % self.every == 0:
            for mine, its in zip(self.model.parameters(), policy.parameters(), strict=True):
                mine.lerp_(its, self.mix)
