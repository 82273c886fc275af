"""PPO's critic: at every token, a guess of the reward still to come.

It has an optimizer and a gradient norm of its own. With `backbone: own` it is a second network that starts as a copy of
the policy; with `backbone: policy` only a head is learned, on the policy's hidden states, whose gradient stops there:
nothing is loaded twice, and the value loss cannot disturb the policy. The head is fp32, whatever the backbone's
precision (in bf16 values above 1 come in steps of 0.008).
"""

import copy
from pathlib import Path

import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from policy_gradients.config import PolicyGradientConfig
from policy_gradients.rollout import Batch
from rlhf.aggregate import Totals, token_mean
from rlhf.distributed import total
from rlhf.groups import Layout, Rows, micro_batches
from rlhf.logprobs import hidden_states
from rlhf.optimizer import backward, in_turn, make_optimizer, optimizer_step


class Critic(nn.Module):
    def __init__(self, policy: PreTrainedModel, *, backbone: str):
        super().__init__()
        self.backbone = copy.deepcopy(policy.base_model).requires_grad_(True) if backbone == "own" else None
        self._policy = [policy]  # in a list, so that its weights are not the critic's
        self.head = nn.Linear(policy.config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.head.weight)  # the first guess is 0 everywhere: no noise in the first advantages
        nn.init.zeros_(self.head.bias)

    def forward(self, rows: Rows) -> Float[Tensor, "n t"]:
        """The value of the state that each token was chosen in; zero where the mask is False."""
        if self.backbone is None:
            with torch.no_grad():
                states = hidden_states(self._policy[0], rows)
        else:
            states = hidden_states(self.backbone, rows)  # ty: ignore[invalid-argument-type]
        value = states.new_zeros(rows.mask.shape, dtype=torch.float32)
        with torch.autocast(states.device.type, enabled=False):
            value[rows.mask] = self.head(states.flatten(0, 1)[rows.source[rows.mask]].float()).squeeze(-1)
        return value


def value_loss(
    value: Float[Tensor, "n t"], value_old: Float[Tensor, "n t"], target: Float[Tensor, "n t"], *, value_clip: float
) -> Float[Tensor, "n t"]:
    """max((v - target)^2, (v_old + clamp(v - v_old, -value_clip, value_clip) - target)^2) / 2.

    As PPO's authors implement it: a value that has moved past the clip towards its target gives no gradient.
    """
    near = value_old + (value - value_old).clamp(-value_clip, value_clip)
    return torch.maximum((value - target).square(), (near - target).square()) / 2


def token_rewards(
    reward: Float[Tensor, " n"], penalty: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"]
) -> Float[Tensor, "n t"]:
    """-penalty at each token, plus the completion's reward at its last one that counts."""
    last = mask & (mask.long().cumsum(1) == mask.sum(1, keepdim=True))
    return torch.where(mask, -penalty, 0.0) + last * reward[:, None]


def whiten(x: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"], accelerator: Accelerator) -> Float[Tensor, "n t"]:
    """(x - mean) / (std + 1e-8) over every token that counts, of all processes; 0 elsewhere."""
    counted = x[mask].double()
    count, first, second = total([len(counted), float(counted.sum()), float(counted.square().sum())], accelerator)
    mean = first / max(1, count)  # no token counts if all completions were cut and are left out
    std = max(0.0, second / max(1, count) - mean**2) ** 0.5
    return torch.where(mask, (x - mean) / (std + 1e-8), 0.0)


def explained_variance(
    value: Float[Tensor, "n t"], outcome: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"], accelerator: Accelerator
) -> float:
    """1 - Var(outcome - value) / Var(outcome) over the tokens: 1 is clairvoyant, 0 a constant guess, below is worse.

    0 where every outcome is the same. `outcome` is the reward-to-go, which owes the critic nothing.
    """
    error, outcome = (outcome - value)[mask].double(), outcome[mask].double()
    numbers = [
        len(error),
        *(float(x) for x in (error.sum(), error.square().sum(), outcome.sum(), outcome.square().sum())),
    ]
    count, e, ee, o, oo = total(numbers, accelerator)
    count = max(1, count)
    spread = oo / count - (o / count) ** 2
    return 1 - (ee / count - (e / count) ** 2) / spread if spread > 1e-12 else 0.0


def reward_to_go(reward: Float[Tensor, "n t"], *, gamma: float) -> Float[Tensor, "n t"]:
    """sum over k >= 0 of gamma^k * r_(t+k): what the value should have been, had this been the only future."""
    out = torch.zeros_like(reward)
    later = reward.new_zeros(len(reward))
    for t in reversed(range(reward.shape[1])):
        later = reward[:, t] + gamma * later
        out[:, t] = later
    return out


class CriticLearner:
    """A critic with its optimizer, and how it learns from a batch."""

    def __init__(
        self, policy: PreTrainedModel, config: PolicyGradientConfig, accelerator: Accelerator, layout: Layout, run: Path
    ):
        assert config.critic is not None  # resolve has filled it in
        self.settings, self.group_size = config.critic, config.group_size
        self.accelerator, self.layout, self.run = accelerator, layout, run
        critic = Critic(policy, backbone=self.settings.backbone).to(accelerator.device)
        betas = (config.adam_beta1, config.adam_beta2)
        optimizer = make_optimizer(critic, lr=self.settings.lr, betas=betas, weight_decay=config.weight_decay)
        self.critic, self.optimizer = accelerator.prepare(critic, optimizer)

    @torch.no_grad()
    def values(self, batch: Batch) -> Float[Tensor, "n t"]:
        value = torch.zeros_like(batch.logp_sampler)
        with self.accelerator.autocast():
            for rows in micro_batches(batch.groups, **self.layout):
                value[rows.sequence, : rows.mask.shape[1]] = self.critic(rows.to(value.device))
        return value

    def update(
        self, batch: Batch, part: range, value_old: Float[Tensor, "n t"], target: Float[Tensor, "n t"]
    ) -> tuple[float, float]:
        """One optimizer step on the prompts of `part`. Returns the loss and the norm of the gradient."""
        first = part.start * self.group_size
        (tokens,) = total([int(batch.mask[first : part.stop * self.group_size].sum())], self.accelerator)
        totals = Totals(sequences=1, tokens=max(1, int(tokens)), max_new_tokens=1)
        batches, step_loss = micro_batches(batch.groups[part.start : part.stop], **self.layout), 0.0
        for rows in in_turn(batches, self.accelerator, self.critic):
            rows = rows.to(target.device)
            n, t = rows.sequence + first, rows.mask.shape[1]
            value = self.critic(rows)
            loss = value_loss(value, value_old[n, :t], target[n, :t], value_clip=self.settings.value_clip)
            loss = token_mean(loss, rows.mask, totals)
            backward(loss, self.accelerator, self.run, rows=rows)
            step_loss += float(loss.detach())
        how = {"lr": self.settings.lr, "max_grad_norm": self.settings.max_grad_norm}
        return step_loss, optimizer_step(self.accelerator, self.critic, self.optimizer, **how)
