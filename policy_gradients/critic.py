"""PPO's critic: at every token, a prediction of the reward still to come.

It has an optimizer and a gradient norm of its own. With `backbone: own` it is a second network that starts as a copy of
the policy; with `backbone: policy` only a head is learned, on the policy's hidden states, whose gradient stops there:
nothing is loaded twice, and the value loss does not change the policy. The head is fp32, whatever the backbone's
precision (in bf16 values above 1 come in steps of 0.008).
"""

import copy

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from policy_gradients.config import CriticConfig
from policy_gradients.defaults import Recipe
from policy_gradients.rollout import Batch, TokenTensors
from rlhf.aggregate import Totals, token_mean
from rlhf.distributed import all_reduce_sum
from rlhf.groups import Rows, micro_batches
from rlhf.logprobs import hidden_states
from rlhf.optimizer import backward, in_turn, make_optimizer, optimizer_step
from rlhf.run.session import Session


class Critic(nn.Module):
    def __init__(self, policy: PreTrainedModel, *, backbone: str):
        super().__init__()
        self.backbone = copy.deepcopy(policy.base_model).requires_grad_(True) if backbone == "own" else None
        # In a list, so that its weights are not the critic's; a critic with a backbone of its own does not read it.
        self._policy = [policy] if backbone == "policy" else []
        self.head = nn.Linear(policy.config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.head.weight)  # the first prediction is 0 everywhere: no noise in the first advantages
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
            value[rows.mask] = self.head(states.flatten(0, 1)[rows.logit_index[rows.mask]].float()).squeeze(-1)
        return value


def value_loss(
    value: Float[Tensor, "n t"], value_old: Float[Tensor, "n t"], target: Float[Tensor, "n t"], *, value_clip: float
) -> Float[Tensor, "n t"]:
    """max((v - target)^2, (v_old + clamp(v - v_old, -value_clip, value_clip) - target)^2) / 2.

    As PPO's authors implement it: a value that has moved past the clip towards its target gives no gradient.
    """
    near = value_old + (value - value_old).clamp(-value_clip, value_clip)
    return torch.maximum((value - target).square(), (near - target).square()) / 2


class CriticLearner:
    """A critic with its optimizer, and how it learns from a batch."""

    def __init__(
        self,
        session: Session,
        policy: PreTrainedModel,
        settings: CriticConfig,
        recipe: Recipe,
    ):
        if recipe.policy_updates <= 0:
            session.console.say(
                f"critic.warmup_batches {recipe.critic_warmup_steps}, of max_steps {recipe.config.max_steps}: the "
                "critic alone learns, and the policy stays as it is"
            )
        self.updates = recipe.updates
        self.settings = settings
        self.accelerator = session.accelerator
        self.layout = session.layout
        self.run = session.path
        critic = Critic(policy, backbone=settings.backbone).to(session.accelerator.device)
        config = recipe.config
        betas = (config.adam_beta1, config.adam_beta2)
        optimizer = make_optimizer(critic, lr=settings.lr, betas=betas, weight_decay=config.weight_decay)
        self.critic, self.optimizer = session.prepare(critic, optimizer)
        self.metrics: dict[str, float] = {}
        self.loss = 0.0  # of the step so far, this process's share

    @torch.no_grad()
    def score(self, batch: Batch) -> None:
        """Fill in the values of the tokens of a batch."""
        with self.accelerator.autocast():
            for rows in micro_batches(batch.groups, **self.layout):
                t = rows.mask.shape[1]
                batch.value[rows.index, :t] = self.critic(rows.to(batch.value.device))

    def update(self, mini_batch: Batch) -> None:
        """One optimizer step on a mini-batch, in micro-batches whose shares of the loss add up to the step's."""
        totals = self._totals(mini_batch.mask)
        step_loss = 0.0
        for rows in in_turn(micro_batches(mini_batch.groups, **self.layout), self.accelerator, self.critic):
            rows = rows.to(self.accelerator.device)
            loss = self._loss(rows, mini_batch.tokens_of(rows), totals)
            backward(loss, self.accelerator, self.run, rows=rows)
            step_loss += float(loss.detach())
        self.loss += step_loss / self.updates
        norm = optimizer_step(
            self.accelerator,
            self.critic,
            self.optimizer,
            lr=self.settings.lr,
            max_grad_norm=self.settings.max_grad_norm,
        )
        self.metrics["critic/grad_norm"] = norm

    def _totals(self, mask: Bool[Tensor, "n t"]) -> Totals:
        """The denominator of an optimizer step, over all its micro-batches and processes: its tokens."""
        (tokens,) = all_reduce_sum([int(mask.sum())], self.accelerator)
        return Totals(sequences=1, tokens=max(1, int(tokens)), max_new_tokens=1)

    def _loss(self, rows: Rows, tokens: TokenTensors, totals: Totals) -> Float[Tensor, ""]:
        """A micro-batch's share of the loss of the step."""
        value = self.critic(rows)
        loss = value_loss(value, tokens.value, tokens.target, value_clip=self.settings.value_clip)
        return token_mean(loss, rows.mask, totals)

    def end_step(self) -> dict[str, float]:
        """The metrics of the step, over all processes."""
        (loss,) = all_reduce_sum([self.loss], self.accelerator)
        metrics = {**self.metrics, "critic/loss": loss}
        self.metrics = {}
        self.loss = 0.0
        return metrics
