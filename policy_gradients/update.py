"""The policy's optimizer steps on a batch of rollouts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel

from policy_gradients.defaults import Recipe
from policy_gradients.diagnostics import UpdateSums
from policy_gradients.ratios import importance_weight
from policy_gradients.reference import Reference
from policy_gradients.rollout import Batch, TokenTensors
from rlhf.aggregate import Totals
from rlhf.distributed import all_reduce_sum
from rlhf.groups import Layout, Rows, micro_batches
from rlhf.kl import k3
from rlhf.logprobs import Scorer, score
from rlhf.optimizer import backward, in_turn, optimizer_step


class PolicyLearner:
    """The policy with its optimizer, and how it learns from a batch."""

    def __init__(
        self,
        model: PreTrainedModel,
        optimizer: torch.optim.Optimizer,
        reference: Reference | None,
        recipe: Recipe,
        accelerator: Accelerator,
        layout: Layout,
        run: Path,
    ):
        self.model = model
        self.recipe = recipe
        self.config = recipe.config
        self.reference = reference
        self.accelerator = accelerator
        self.layout = layout
        self.run = run
        self.scorer, self.optimizer = accelerator.prepare(Scorer(model), optimizer)
        self.metrics: dict[str, float] = {}
        self.sums = UpdateSums()
        self.loss = 0.0  # of the step so far, this process's share
        self.steps = 0  # optimizer steps of the step so far

    # ------------------------------------------------------------ before the updates

    def score(self, batch: Batch) -> None:
        """Fill in `logp_ref`, the KL penalty in the reward, and `logp_old` unless the update computes it anyway."""
        recipe = self.recipe
        if self.config.staleness:
            # The policy that sampled the batch is gone; the sampler wrote down its log-probabilities.
            batch.logp_old = batch.logp_sampler
        elif recipe.updates > 1 or recipe.kl_in_reward:
            batch.logp_old = self._logp(self.model, batch)
        if self.reference is not None:
            with self.reference.network() as network:
                batch.logp_ref = self._logp(network, batch)
            if recipe.kl_in_reward and batch.logp_old is not None:
                batch.penalty = self.reference.coef * recipe.kl_estimate(batch.logp_old, batch.logp_ref)

    def _logp(self, network: PreTrainedModel, batch: Batch) -> Float[Tensor, "n t"]:
        """Log-probabilities of the whole batch, without gradient."""
        # A penalty in the reward is for every token, also where the loss leaves the token out.
        groups = batch.whole_groups if self.recipe.kl_in_reward else batch.groups
        with self.accelerator.autocast():
            scores = score(
                Scorer(network),
                groups,
                temperature=self.config.temperature,
                device=self.accelerator.device,
                **self.layout,
            )
        return scores.logp

    # ------------------------------------------------------------ one update

    def update(self, mini_batch: Batch, *, lr: float) -> None:
        """One optimizer step on a mini-batch, in micro-batches whose shares of the loss add up to the step's."""
        totals = self._totals(mini_batch.mask)
        step_loss = 0.0
        for rows in in_turn(micro_batches(mini_batch.groups, **self.layout), self.accelerator, self.scorer):
            rows = rows.to(self.accelerator.device)
            tokens = mini_batch.tokens_of(rows)
            loss = self._loss(rows, tokens, totals)
            backward(loss, self.accelerator, self.run, rows=rows, adv=tokens.adv)
            step_loss += float(loss.detach())
        self.loss += step_loss / self.recipe.updates
        norm = optimizer_step(
            self.accelerator, self.model, self.optimizer, lr=lr, max_grad_norm=self.config.max_grad_norm
        )
        self.steps += 1
        self.metrics |= {"optim/lr": lr, "optim/grad_norm": norm}

    def _totals(self, mask: Bool[Tensor, "n t"]) -> Totals:
        """The denominators of an optimizer step, over all its micro-batches and processes."""
        sequences, tokens = all_reduce_sum([int(mask.any(1).sum()), int(mask.sum())], self.accelerator)
        return Totals(max(1, int(sequences)), max(1, int(tokens)), self.config.max_new_tokens)

    def _loss(self, rows: Rows, tokens: TokenTensors, totals: Totals) -> Float[Tensor, ""]:
        """A micro-batch's share of the loss of the step."""
        recipe = self.recipe
        scores = self.scorer(rows, self.config.temperature)
        logp = scores.logp
        mask = scores.mask
        # The first update on a fresh batch is on-policy: its own log-probabilities are the old ones.
        logp_old = logp.detach() if tokens.logp_old is None else tokens.logp_old

        ratio = recipe.ratio(logp, logp_old, mask) if recipe.ratio else None
        loss = recipe.surrogate(logp, ratio, tokens.adv, mask)
        weight = None
        if self.config.importance != "none":
            # A ratio corrects from pi_old to pi, so the weight is pi_old / pi_sampler; without one, pi / pi_sampler.
            numerator = logp if ratio is None else logp_old
            weight = importance_weight(
                numerator, tokens.logp_sampler, mask, correction=self.config.importance, cap=self.config.importance_cap
            )
            loss = loss * weight
        kl = None
        if self.reference is not None and tokens.logp_ref is not None:
            kl = k3(logp, tokens.logp_ref)
            if recipe.kl_in_loss:
                loss = loss + self.reference.coef * recipe.kl_estimate(logp, tokens.logp_ref)

        # Trainer minus sampler, with the same weights: rounding, top_p and top_k. A stale batch's weights are gone.
        gap = None if self.config.staleness else logp_old - tokens.logp_sampler
        self.sums.add(
            scores,
            gap=gap,
            ratio=ratio,
            adv=tokens.adv,
            kl=kl,
            weight=weight,
            clip_low=recipe.settings.get("clip_low"),
            clip_high=recipe.settings.get("clip_high"),
        )
        return recipe.aggregate(loss, mask, totals)

    # ------------------------------------------------------------ after the updates

    def end_step(self, done: int) -> dict[str, float]:
        """Let the reference follow. Returns the metrics of the step, over all processes."""
        (loss,) = all_reduce_sum([self.loss], self.accelerator)
        metrics = self.metrics
        if metrics:
            metrics |= {"loss": loss, **self.sums.means(self.accelerator, has_ratio=self.recipe.ratio is not None)}
        metrics |= {"optim/steps": float(self.steps)}
        if self.reference is not None:
            metrics |= self.reference.end_step(done, kl=metrics.get("policy/kl"))
        self.metrics = {}
        self.sums = UpdateSums()
        self.loss = 0.0
        self.steps = 0
        return metrics

    # ------------------------------------------------------------ checkpoints

    def state(self) -> dict[str, Any]:
        return {} if self.reference is None else {"kl_coef": self.reference.coef}

    def load_state(self, state: Mapping[str, Any]) -> None:
        if self.reference is not None:
            self.reference.coef = state.get("kl_coef", self.reference.coef)
