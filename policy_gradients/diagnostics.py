"""Metrics of training, and advice for a run that cannot learn."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float
from torch import Tensor

from policy_gradients.config import PolicyGradientConfig
from policy_gradients.reward_functions import UserComponent, judge_metrics, names_of
from policy_gradients.rollout import Batch
from rlhf.distributed import all_reduce_sum, gather
from rlhf.errors import MAX_UNUSABLE
from rlhf.logprobs import Scores

METRICS: dict[str, dict[str, Any]] = {
    "loss": {
        "description": "Loss of the step; not comparable across steps: watch reward/exact",
        "unit": "",
        "noise": 1e-5,  # of a mean over tokens of terms whose size is about 1
    },
    "reward/mean": {"description": "Mean reward of the batch, before any KL penalty", "unit": ""},
    "reward/exact": {"description": "Share of completions that are right", "unit": ""},
    "reward/format": {"description": "Share of completions in the form that was asked for", "unit": ""},
    "reward/partial": {"description": "Mean of the task's own score, which may give partial credit", "unit": ""},
    "reward/model": {"description": "Mean score of the reward model", "unit": ""},
    "reward/unverified": {
        "description": "Share of completions whose verifier failed or took too long; they count as wrong",
        "unit": "",
    },
    "reward/greedy": {"description": "Mean reward of the greedy completions, where they are a baseline", "unit": ""},
    "reward/std": {"description": "Standard deviation of the rewards of the batch", "unit": ""},
    "groups/contrast": {
        "description": "Share of groups whose rewards differ; the others have advantage 0",
        "unit": "",
    },
    "groups/solved": {"description": "Share of groups in which every completion is right", "unit": ""},
    "groups/failed": {"description": "Share of groups in which no completion is right", "unit": ""},
    "groups/drawn": {
        "description": "Prompts sampled for the batch, including those that resample_rounds replaced",
        "unit": "",
    },
    "policy/entropy": {
        "description": "Mean entropy of the distributions that the tokens were sampled from",
        "unit": "nats",
    },
    "policy/kl": {"description": "KL(policy || reference) per token, estimated by k3", "unit": "nats"},
    "policy/kl_coef": {"description": "Coefficient of the KL penalty in this step", "unit": ""},
    "policy/clip_fraction": {
        "description": "Share of tokens whose ratio is clipped, so that they give no gradient",
        "unit": "",
    },
    "policy/ratio_min": {"description": "Smallest pi / pi_old of the step", "unit": ""},
    "policy/ratio_max": {"description": "Largest pi / pi_old of the step", "unit": ""},
    "policy/importance": {
        "description": "Mean importance weight pi / pi_sampler of the tokens, after the cap",
        "unit": "",
    },
    "policy/kept": {
        "description": "Share of tokens that top_entropy, second_moment, covariance and off_policy_mask leave in",
        "unit": "",
    },
    "policy/entropy_coef": {
        "description": "Weight of the entropy after the step; 0: it does not act",
        "unit": "",
    },
    "critic/loss": {"description": "Clipped squared error of the values, mean over tokens", "unit": ""},
    "critic/explained_variance": {
        "description": "Share of the variance of the reward-to-go that the values explain, before the update",
        "unit": "",
    },
    "critic/grad_norm": {
        "description": "Norm of the critic's gradient before clipping, last optimizer step",
        "unit": "",
    },
    "length/mean": {"description": "Mean length of a completion", "unit": "tokens"},
    "length/right": {"description": "Mean length of the completions that are right", "unit": "tokens"},
    "length/wrong": {"description": "Mean length of those that are not", "unit": "tokens"},
    "length/max": {"description": "Longest completion", "unit": "tokens"},
    "length/truncated": {"description": "Share of completions cut at max_new_tokens", "unit": ""},
    "sampler/age": {
        "description": "Steps that the batch has waited between sampling and training, with staleness",
        "unit": "steps",
    },
    "sampler/logp_gap": {
        "description": "Mean absolute difference between the sampler's and the trainer's log-probability of a token",
        "unit": "nats",
    },
    "judge/calls": {
        "description": "Calls of the judges' endpoints that were answered, since the run began or went on",
        "unit": "",
    },
    "judge/cached": {"description": "Questions to the judges that the cache has answered", "unit": ""},
    "judge/tokens_in": {"description": "Tokens that the judges were sent", "unit": "tokens"},
    "judge/tokens_out": {"description": "Tokens that the judges replied", "unit": "tokens"},
    "judge/retries": {"description": "Calls of the judges that failed and were tried again", "unit": ""},
    "judge/malformed": {
        "description": "Replies of the judges without a verdict: the criterion counts as not met",
        "unit": "",
    },
    "judge/refused": {"description": "Questions that the judges' servers did not take: likewise", "unit": ""},
    "time/sampling_s": {"description": "Sampling and rewarding", "unit": "s"},
    "time/scoring_s": {"description": "Passes without gradient: old policy, reference, values", "unit": "s"},
}
# What there is only where completions are compared with an answer.
OF_VERDICTS = {
    *("reward/exact", "reward/format", "reward/partial", "reward/unverified", "groups/solved", "groups/failed"),
    *("length/right", "length/wrong"),
}
ON_POLICY = (
    "a batch has one optimizer step, taken by the policy that sampled it, so the ratio is 1 and the clip never acts; "
    "--steps_per_batch 4 shows them"
)
NO_LOSS = "the mean of centered advantages while the ratio is 1: its value is 0, its gradient is not"
STILL_ON_POLICY = {
    "policy/ratio_min": ON_POLICY,
    "policy/ratio_max": ON_POLICY,
    "policy/clip_fraction": ON_POLICY,
    "loss": NO_LOSS,
}


def describe_metrics(config: PolicyGradientConfig, *, verifies: bool = True) -> dict[str, dict[str, Any]]:
    """The metrics of a run, with one for each function of the user, and why some of them cannot move in it.

    Args:
        verifies: whether the task has answers that completions are compared with; without, nothing is right or wrong.
    """
    on_policy = config.epochs_per_batch * config.steps_per_batch == 1 and not config.staleness
    still = {name: METRICS[name] | {"still": why} for name, why in STILL_ON_POLICY.items()} if on_policy else {}
    own = {"description": "Mean of your own function or criterion", "unit": ""}
    described = METRICS | still | {f"reward/{name}": own for name in names_of(config.reward_functions)}
    if verifies:
        return described
    loss = described["loss"] | {"description": "Loss of the step; not comparable across steps: watch reward/mean"}
    return {name: text for name, text in described.items() if name not in OF_VERDICTS} | {"loss": loss}


def batch_metrics(
    batch: Batch, accelerator: Accelerator, functions: Mapping[str, UserComponent] | None = None
) -> dict[str, float]:
    """Metrics of a batch of rollouts, over all processes; and what the judges among the reward functions have cost."""
    components = [it for rollout in batch.rollouts for it in rollout.components]
    exact = [[it["exact"] for it in rollout.components] for rollout in batch.rollouts if rollout.is_verified]
    right = torch.tensor([it.get("exact", math.nan) for it in components])
    reward, length = batch.reward, batch.length
    n, b = len(components), len(batch.rollouts)
    found: dict[str, tuple[float, int]] = {  # sums, and over how many
        "reward/mean": (float(reward.sum()), n),
        **{f"reward/{name}": _sum_of(name, components) for name in _names(components, accelerator)},
        "reward/std": (float(reward.square().sum()), n),
        "length/mean": (float(length.sum()), n),
        "length/right": (float(length[right == 1].sum()), int((right == 1).sum())),
        "length/wrong": (float(length[right == 0].sum()), int((right == 0).sum())),
        "length/truncated": (float(batch.truncated.sum()), n),
        "groups/contrast": (float((reward != reward[:, :1]).any(1).sum()), b),
        "groups/solved": (sum(min(own) == 1 for own in exact), len(exact)),
        "groups/failed": (sum(max(own) == 0 for own in exact), len(exact)),
    }
    if batch.greedy_reward is not None:
        found["reward/greedy"] = (float(batch.greedy_reward.sum()), b)
    sums, counts = (all_reduce_sum([pair[i] for pair in found.values()], accelerator) for i in (0, 1))
    metrics = {key: total / count for key, total, count in zip(found, sums, counts, strict=True) if count}
    metrics["reward/std"] = max(0.0, metrics["reward/std"] - metrics["reward/mean"] ** 2) ** 0.5
    metrics["groups/drawn"] = float(batch.drawn)
    metrics["sampler/tokens"] = batch.sampled_tokens
    if batch.age is not None:
        metrics["sampler/age"] = float(batch.age)
    metrics["length/max"] = float(accelerator.gather(length.max()[None].to(accelerator.device)).max())
    return metrics | judge_metrics((functions or {}).values(), accelerator)


def _names(components: Sequence[Mapping[str, float]], accelerator: Accelerator) -> list[str]:
    """The components of any completion, the same in all processes: of prompts without an answer there is no `exact`."""
    return list(dict.fromkeys(name for own in gather(list(map(list, components)), accelerator) for name in own))


def _sum_of(name: str, components: Sequence[Mapping[str, float]]) -> tuple[float, int]:
    values = [own[name] for own in components if name in own]
    return sum(values), len(values)


def shown(metrics: Mapping[str, float]) -> dict[str, str]:
    """What the console shows of a step: how many completions are right, or, without answers, their mean reward."""
    key, name = ("reward/exact", "right") if "reward/exact" in metrics else ("reward/mean", "reward")
    return {name: f"{metrics[key]:.2f}", "length": f"{metrics['length/mean']:.0f}"}


class UpdateSums:
    """Sums over the tokens of all micro-batches of a step, then means over all processes."""

    def __init__(self):
        self.sums: dict[str, float] = {}
        self.smallest, self.largest = math.inf, -math.inf
        self.tokens = 0

    def add(
        self,
        scores: Scores,
        *,
        gap: Float[Tensor, "n t"] | None,
        ratio: Float[Tensor, "n t"] | None,
        adv: Float[Tensor, "n #t"],
        kl: Float[Tensor, "n t"] | None,
        weight: Float[Tensor, "n t"] | None = None,
        kept: Bool[Tensor, "n t"] | None = None,
        clip_low: float | None = None,
        clip_high: float | None = None,
    ) -> None:
        mask = scores.mask
        per_token = {"policy/entropy": scores.entropy.detach()}
        if gap is not None:
            per_token["sampler/logp_gap"] = gap.abs()
        if kl is not None:
            per_token["policy/kl"] = kl.detach()
        if weight is not None:
            per_token["policy/importance"] = weight
        if kept is not None:
            per_token["policy/kept"] = kept.float()
        if ratio is not None:
            ratio = ratio.detach()
            if mask.any():  # a micro-batch of completions that are left out of the loss has no token that counts
                self.smallest = min(self.smallest, float(ratio[mask].min()))
                self.largest = max(self.largest, float(ratio[mask].max()))
            if clip_high is not None:
                per_token["policy/clip_fraction"] = _clipped(ratio, adv, clip_low, clip_high).float()
        for key, value in per_token.items():
            self.sums[key] = self.sums.get(key, 0.0) + float(value[mask].sum())
        self.tokens += int(mask.sum())

    def means(self, accelerator: Accelerator, *, has_ratio: bool) -> dict[str, float]:
        """The means over the tokens of all processes; one that had no micro-batch adds nothing."""
        parts: list[UpdateSums] = gather([self], accelerator)
        tokens = sum(part.tokens for part in parts)
        keys = dict.fromkeys(key for part in parts for key in part.sums)
        metrics = {key: sum(part.sums.get(key, 0.0) for part in parts) / max(1, tokens) for key in keys}
        if has_ratio and tokens:
            smallest, largest = min(part.smallest for part in parts), max(part.largest for part in parts)
            metrics |= {"policy/ratio_min": smallest, "policy/ratio_max": largest}
        return metrics


def _clipped(ratio: Tensor, adv: Tensor, clip_low: float | None, clip_high: float) -> Tensor:
    """Where the clip acts: on ratios that moved with the advantage; without clip_low (CISPO), on all above."""
    if clip_low is None:
        return ratio > 1 + clip_high
    return ((ratio > 1 + clip_high) & (adv > 0)) | ((ratio < 1 - clip_low) & (adv < 0))


class Adviser:
    """Watches the last few steps and says why nothing is being learned."""

    def __init__(self, window: int = 5):
        self.recent: deque[Mapping[str, float]] = deque(maxlen=window)
        self.first: Mapping[str, float] | None = None
        self.warned_of: set[str] = set()

    def _of_failures(self, metrics: Mapping[str, float]) -> list[str]:
        """Said once, of the verifier and of the judges."""
        advice = []
        if (failed := metrics.get("reward/unverified", 0.0)) > 0 and "verifier" not in self.warned_of:
            self.warned_of.add("verifier")
            advice.append(
                f"The verifier failed or took too long at {failed:.1%} of the completions; they count as wrong "
                "(reward/unverified)."
            )
        unread = metrics.get("judge/malformed", 0.0)
        asked = metrics.get("judge/calls", 0.0) + metrics.get("judge/cached", 0.0)
        if unread > MAX_UNUSABLE * asked and "judge" not in self.warned_of:
            self.warned_of.add("judge")
            advice.append(
                f"{unread / asked:.1%} of the judges' replies are no verdict (judge/malformed); the criterion counts "
                "as not met there. Ask plainer questions, raise the rubric's max_tokens, or take another model."
            )
        return advice

    def check(self, metrics: Mapping[str, float]) -> list[str]:
        """Advice after a step with these metrics; most steps have none."""
        advice = self._of_failures(metrics)
        self.recent.append(metrics)
        first = self.first = self.first or metrics
        if len(self.recent) < (self.recent.maxlen or 0):
            return advice

        def always(condition) -> bool:
            return all(condition(m) for m in self.recent)

        if always(lambda m: m["groups/contrast"] < 0.05 and "groups/failed" not in m):
            advice.append(
                "In over 95 % of the groups all completions have the same reward, so there is no gradient. Look at the "
                "rewards in samples.jsonl, or raise group_size or temperature."
            )
        if always(lambda m: m["groups/contrast"] < 0.05 and m.get("groups/failed", 0.0) > 0.9):
            advice.append(
                "No completion is right in over 90 % of the groups, so all advantages are 0 and there is no gradient. "
                "Make the task easier (task_config), train on demonstrations first (instruction_tuning), or raise "
                "group_size. Look at samples.jsonl: if the answers are right but in another form, see answer_in."
            )
        if always(lambda m: m["groups/contrast"] < 0.05 and m.get("groups/solved", 0.0) > 0.9):
            advice.append("Over 90 % of the groups are solved completely: nothing is left to learn from this task.")
        if always(lambda m: m["length/truncated"] > 0.8):
            advice.append(
                "Over 80 % of the completions are cut at max_new_tokens before they answer: raise max_new_tokens, "
                "or check that the model ever ends its turn."
            )
        if always(lambda m: m.get("policy/kl", 0.0) > 1.0):
            advice.append(
                "The policy is over 1 nat per token from its reference: it drifts from the text it was trained on. "
                "Lower lr or raise kl_coef."
            )
        form, right = first.get("reward/format", 1.0), first.get("reward/exact", 0.0)  # none without an answer
        tidy = always(lambda m: m.get("reward/format", 0.0) > max(0.95, form + 0.2))
        if tidy and always(lambda m: m.get("reward/exact", 1.0) < right + 0.02):
            advice.append(
                "The form of the answers has become right but the answers have not: only the reward for form is "
                "earned. Lower reward_weights.format."
            )
        if always(lambda m: "reward/model" in m and m["reward/model"] > first["reward/model"]) and always(
            lambda m: m.get("reward/exact", 1.0) < right - 0.05
        ):
            advice.append(
                "The reward model gives higher scores than at the start while fewer completions are right: the policy "
                "has found what it overrates. Stop earlier, raise kl_coef, lower lr, or train the reward model on "
                "completions of this policy too."
            )
        if always(lambda m: m.get("policy/entropy", 1.0) < 0.005) and always(
            lambda m: m.get("reward/exact", 0.0) < 0.9
        ):
            advice.append("Entropy is nearly 0: the policy has stopped exploring. Lower lr, or raise clip_high.")
        if always(lambda m: m.get("critic/explained_variance", 1.0) < 0.0) and always(lambda m: m["reward/std"] > 0.1):
            advice.append(
                "The critic's values are worse than a constant, so the advantages are noise. Raise "
                "critic.warmup_batches, or lower critic.lr."
            )
        return advice
