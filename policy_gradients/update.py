"""The policy's optimizer steps on a batch of rollouts."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel

from policy_gradients.defaults import Recipe
from policy_gradients.diagnostics import UpdateSums
from policy_gradients.entropy import EntropyBonus
from policy_gradients.ratios import strayed, token_ratio
from policy_gradients.reference import Reference
from policy_gradients.rollout import Batch, TokenTensors
from policy_gradients.token_rules import StepTokens, choose, has_rules, uniform_numbers
from rlhf.aggregate import Totals
from rlhf.distributed import all_reduce_sum
from rlhf.groups import Group, micro_batches
from rlhf.kl import k3
from rlhf.logprobs import Scorer, Scores, score
from rlhf.optimizer import backward, in_turn, optimizer_step
from rlhf.run.session import Session
from rlhf.tensors import masked_sum


class PolicyLearner:
    """The policy with its optimizer, and how it learns from a batch."""

    def __init__(self, session: Session, model: PreTrainedModel, reference: Reference | None, recipe: Recipe):
        self.model = model
        self.recipe = recipe
        self.config = recipe.config
        self.reference = reference
        self.accelerator = session.accelerator
        self.layout = session.layout
        self.run = session.path
        self.scorer, self.optimizer = session.prepare(Scorer(model), session.make_optimizer(model))
        self.metrics: dict[str, float] = {}
        self.sums = UpdateSums()
        self.entropy = EntropyBonus(self.config)
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
        return self._scores(network, batch.whole_groups if self.recipe.kl_in_reward else batch.groups).logp

    def _scores(self, network: PreTrainedModel, groups: Sequence[Group]) -> Scores:
        with self.accelerator.autocast():
            return score(
                Scorer(network),
                groups,
                temperature=self.config.temperature,
                device=self.accelerator.device,
                **self.layout,
            )

    # ------------------------------------------------------------ one update

    def update(self, mini_batch: Batch, *, lr: float) -> None:
        """One optimizer step on a mini-batch, in micro-batches whose shares of the loss add up to the step's."""
        totals = self._totals(mini_batch.mask)
        if has_rules(self.config):
            self._apply_rules(mini_batch)
        right_tokens = 1.0
        if self.recipe.extra.nll_coef:
            mini_batch.find_right()
            right_tokens = max(1.0, self._sum(int(mini_batch.right.sum())))
        step_loss, step_entropy = 0.0, 0.0
        for rows in in_turn(micro_batches(mini_batch.groups, **self.layout), self.accelerator, self.scorer):
            rows = rows.to(self.accelerator.device)
            tokens = mini_batch.tokens_of(rows)
            scores = self.scorer(rows, self.config.temperature)
            loss = self._loss(scores, tokens, totals)
            if self.recipe.extra.nll_coef:
                likelihood = masked_sum(scores.logp, tokens.right).sum() / right_tokens
                loss = loss - self.recipe.extra.nll_coef * likelihood
            backward(loss, self.accelerator, self.run, rows=rows, adv=tokens.adv)
            step_loss += float(loss.detach())
            step_entropy += float(masked_sum(scores.entropy.detach(), scores.mask).sum())
        self.loss += step_loss / self.recipe.updates
        if self.entropy.target is not None:
            self.entropy.adapt(self._sum(step_entropy) / totals.tokens)
        norm = optimizer_step(
            self.accelerator, self.scorer, self.optimizer, lr=lr, max_grad_norm=self.config.max_grad_norm
        )
        self.steps += 1
        self.metrics |= {"optim/lr": lr, "optim/grad_norm": norm}

    def _sum(self, number: float) -> float:
        return all_reduce_sum([number], self.accelerator)[0]

    def _totals(self, mask: Bool[Tensor, "n t"]) -> Totals:
        """The denominators of an optimizer step, over all its micro-batches and processes."""
        sequences, tokens = all_reduce_sum([int(mask.any(1).sum()), int(mask.sum())], self.accelerator)
        return Totals(max(1, int(sequences)), max(1, int(tokens)), self.config.max_new_tokens)

    def _apply_rules(self, mini_batch: Batch) -> None:
        """Fill in which tokens are in the policy's loss, and which pay for moving: the whole step decides."""
        now = self._scores(self.model, mini_batch.groups)
        (g, t), longest = (mini_batch.reward.shape[1], now.logp.shape[1]), self.config.max_new_tokens
        numbers = [rollout.number for rollout in mini_batch.rollouts]
        tokens = StepTokens(
            logp=now.logp,
            logp_old=now.logp if mini_batch.logp_old is None else mini_batch.logp_old[:, :t],
            entropy=now.entropy,
            adv=mini_batch.adv[:, :t],
            mask=mini_batch.mask[:, :t],
            uniform=uniform_numbers(self.config.seed, numbers, g=g, t=longest)[:, :t].to(now.logp.device),
        )
        chosen = choose(self.config, tokens, self.accelerator)
        mini_batch.kept, mini_batch.held = chosen.kept, chosen.held

    def _loss(self, scores: Scores, tokens: TokenTensors, totals: Totals) -> Float[Tensor, ""]:
        """A micro-batch's share of the loss of the step."""
        recipe, config = self.recipe, self.config
        logp, mask = scores.logp, scores.mask
        # The first update on a fresh batch is on-policy: its own log-probabilities are the old ones.
        logp_old = logp.detach() if tokens.logp_old is None else tokens.logp_old

        ratio = recipe.ratio(logp, logp_old, mask) if recipe.ratio else None
        loss = recipe.surrogate(logp, ratio, tokens.adv, mask)
        weight = None
        if config.importance != "none":
            # A ratio corrects from pi_old to pi, so the weight is pi_old / pi_sampler; without one, pi / pi_sampler.
            weight = recipe.importance_weight(logp if ratio is None else logp_old, tokens.logp_sampler, mask)
            loss = loss * weight
        kept = tokens.kept
        if config.off_policy_mask is not None:
            kept = kept & ~strayed(logp, tokens.logp_sampler, tokens.adv, mask, limit=config.off_policy_mask)
        loss = torch.where(kept, loss, 0.0)

        # Terms beside the policy's, at every token that counts.
        if config.covariance == "kl":
            moved = torch.where(tokens.held, (logp - logp_old).abs(), 0.0)
            loss = loss + config.covariance_kl_coef * moved
        if self.entropy.weight:
            loss = loss - self.entropy.weight * scores.entropy
        kl = None
        if self.reference is not None and tokens.logp_ref is not None:
            kl = k3(logp, tokens.logp_ref)
            if recipe.kl_in_loss:
                estimate = recipe.kl_estimate(logp, tokens.logp_ref)
                if config.kl_unbiased:
                    estimate = estimate * token_ratio(logp, logp_old, mask)
                loss = loss + self.reference.coef * estimate

        # Trainer minus sampler, with the same weights: rounding, top_p and top_k. A stale batch's weights are gone.
        gap = None if config.staleness else logp_old - tokens.logp_sampler
        self.sums.add(
            scores,
            gap=gap,
            ratio=ratio,
            adv=tokens.adv,
            kl=kl,
            weight=weight,
            kept=kept if has_rules(config) or config.off_policy_mask is not None else None,
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
        if self.entropy.coef or self.entropy.target is not None:
            metrics |= {"policy/entropy_coef": self.entropy.weight}
        if self.reference is not None:
            metrics |= self.reference.end_step(done, kl=metrics.get("policy/kl"))
        self.metrics = {}
        self.sums = UpdateSums()
        self.loss = 0.0
        self.steps = 0
        return metrics

    # ------------------------------------------------------------ checkpoints

    def state(self) -> dict[str, Any]:
        kl = {} if self.reference is None else {"kl_coef": self.reference.coef}
        return kl | self.entropy.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        if self.reference is not None:
            self.reference.coef = state.get("kl_coef", self.reference.coef)
        self.entropy.load_state(state)
