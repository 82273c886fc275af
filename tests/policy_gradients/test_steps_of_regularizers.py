"""Optimizer steps of the loop with terms and rules beside the surrogate, recomputed from their formulas."""

import math
import statistics

import pytest
import torch
from policy_gradient_steps import G, T, all_logp, clipped, rows_of, z_scores
from steps_by_hand import check_gradient, token_logp
from torch import Tensor, nn

from policy_gradients.token_rules import uniform_numbers


def entropies(model: nn.Module, prompt: list[int], tokens: list[int]) -> Tensor:
    """Of the distribution that each token was sampled from, nats."""
    ids = torch.tensor([[*prompt, *tokens]])
    logp = (model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float() / T).log_softmax(-1)
    return -(logp.exp() * logp).sum(-1)


def test_entropy_bonus_unbiased_kl_and_corrections(run) -> None:
    """Two passes. Weights of whole completions held in a band; wrong ones that strayed left out; k1 times pi / pi_old,
    with its gradient; less the entropy."""
    extra = ["--algorithm", "grpo", "--max_steps", "1", "--epochs_per_batch", "2", "--lr", "0.02"]
    extra += ["--kl_coef", "0.2", "--kl_estimator", "k1", "--kl_unbiased", "true", "--entropy_coef", "0.3"]
    extra += ["--importance", "mask", "--importance_level", "sequence", "--importance_floor", "0.6"]
    done = run(*extra, "--importance_cap", "1.8", "--off_policy_mask", "0.05")
    (batch,), rows, adv = done.batches, rows_of(done.batches[0]), z_scores(done.batches[0])
    old, reference = all_logp(done.steps[0].at(), batch), all_logp(run.reference, batch)
    sampler = [torch.tensor(logp) for it in batch.rollouts for logp in it.sampled.logp]
    dropped = out = kept = tokens = 0
    for step in done.steps:
        model, losses = step.at(), []
        for i, row in enumerate(rows):
            logp = token_logp(model, *row, T)
            ratio = (logp - old[i]).exp()
            weight = float((old[i] - sampler[i]).sum().exp())
            strayed = adv[i] < 0 and float((sampler[i] - logp.detach()).mean()) > 0.05
            loss = clipped(ratio, adv[i], 0.2, 0.2) * (weight if 0.6 <= weight <= 1.8 else 0.0) * (not strayed)
            loss = loss + 0.2 * ratio * (logp - reference[i]) - 0.3 * entropies(model, *row)
            losses.append(loss.mean())
            dropped += not 0.6 <= weight <= 1.8
            out += strayed
            kept += len(logp) * (not strayed)
            tokens += len(logp)
        check_gradient(step, model, torch.stack(losses).mean())
    assert 0 < dropped < 2 * len(rows)
    assert 0 < out < 2 * len(rows)
    assert done.metrics[0]["policy/kept"] == pytest.approx(kept / tokens)
    assert done.metrics[0]["policy/entropy_coef"] == 0.3


def test_an_entropy_target(run) -> None:
    """The first step without a bonus; the entropy is below the target, so the second has 0.005, the third 0.01."""
    extra = ["--algorithm", "rloo", "--max_steps", "3", "--kl_coef", "0", "--lr", "0.01", "--entropy_target", "50"]
    done = run(*extra)
    for k, (batch, step) in enumerate(zip(done.batches, done.steps, strict=True)):
        model, loss = step.at(), torch.tensor(0.0)
        for i, row in enumerate(rows_of(batch)):
            reward = batch.reward.flatten()
            group = batch.reward[i // G]
            adv = float(reward[i] - (group.sum() - reward[i]) / (G - 1))
            loss = loss - (adv * token_logp(model, *row, T) + 0.005 * k * entropies(model, *row)).sum() / len(reward)
        check_gradient(step, model, loss)
        assert done.metrics[k]["policy/entropy_coef"] == pytest.approx(0.005 * (k + 1))


@pytest.mark.parametrize("rule", ["top_entropy", "second_moment", "kl", "clip"])
def test_rules_for_the_tokens_of_a_step(run, rule: str) -> None:
    """Two passes of two steps: each step's own tokens decide, under the weights that it starts from. What is left out
    stays in the denominator."""
    settings = {
        "top_entropy": ["--algorithm", "dapo", "--resample_rounds", "0", "--truncated", "keep", "--top_entropy", "0.2"],
        "second_moment": ["--algorithm", "m2po", "--second_moment", "0.05"],
        "kl": ["--algorithm", "m2po", "--covariance", "kl", "--covariance_share", "0.3", "--second_moment", "1e9"],
        "clip": ["--algorithm", "m2po", "--covariance", "clip", "--covariance_share", "0.1", "--second_moment", "1e9"],
    }[rule]
    extra = ["--max_steps", "1", "--epochs_per_batch", "2", "--steps_per_batch", "2", "--lr", "0.02", "--kl_coef", "0"]
    band = ["--covariance_low", "-0.5", "--covariance_high", "0.5"]
    done = run(*settings, *extra, *(band if rule == "clip" else []))
    (batch,), rows, adv = done.batches, rows_of(done.batches[0]), z_scores(done.batches[0])
    old = all_logp(done.steps[0].at(), batch)
    random = uniform_numbers(0, [it.number for it in batch.rollouts], g=G, t=7)
    half, left_out = len(rows) // 2, 0
    for k, step in enumerate(done.steps):
        model, own = step.at(), range(k % 2 * half, k % 2 * half + half)
        logp = [token_logp(model, *rows[i], T) for i in own]
        flat, flat_old = torch.cat(logp).detach(), torch.cat([old[i] for i in own])
        flat_adv = torch.cat([torch.full((len(x),), adv[i]) for i, x in zip(own, logp, strict=True)])
        n = len(flat)
        kept, held = torch.ones(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
        if rule == "top_entropy":
            entropy = torch.cat([entropies(model, *rows[i]).detach() for i in own])
            kept = entropy >= entropy.sort(descending=True).values[int(0.2 * n) - 1] - 1e-5
        elif rule == "second_moment":
            square = (flat - flat_old).square()
            order = square.argsort(descending=True).tolist()
            while order and float(square[order].double().mean()) > 0.05:
                kept[order.pop(0)] = False
        else:
            covariance = (flat_adv - flat_adv.mean()) * (flat - flat.mean())
            if rule == "kl":
                held[covariance.argsort(descending=True)[: int(0.3 * n)]] = True
            else:
                number = torch.cat([random[i, : len(x)] for i, x in zip(own, logp, strict=True)])
                inside = (covariance > -0.5) & (covariance < 0.5)
                inside = [j for j in number.argsort(descending=True).tolist() if inside[j]]
                kept[inside[: int(0.1 * n)]] = False
        left_out += int((~kept).sum())
        now = torch.cat(logp)
        ratio = (now - flat_old).exp()
        loss = clipped(ratio, flat_adv, 0.2, 0.28) if rule == "top_entropy" else -ratio * flat_adv
        check_gradient(step, model, (loss * kept + held * (now - flat_old).abs()).sum() / n)
    assert (left_out > 0) == (rule != "kl")


def test_vapo_with_its_critic(run) -> None:
    """Two passes: GAE with a lambda by length, whitened; the clip that is wider above; a tenth of the mean negative
    log-likelihood of right completions' tokens; values that learn the rewards as they came."""
    extra = [
        "--algorithm",
        "vapo",
        "--max_steps",
        "1",
        "--epochs_per_batch",
        "2",
        "--lr",
        "0.01",
        "--length_alpha",
        "0.3",
    ]
    done = run(*extra, "--kl_coef", "0", "--critic.lr", "0.02", "--critic.value_clip", "9")
    policy, critic = done.of("policy"), done.of("critic")
    (batch,), rows = done.batches, rows_of(done.batches[0])
    old = all_logp(policy[0].at(), batch)
    first = critic[0].at()

    def values(network: nn.Module, prompt: list[int], tokens: list[int]) -> Tensor:
        states = network.backbone(input_ids=torch.tensor([[*prompt, *tokens]])).last_hidden_state
        return network.head(states[0, len(prompt) - 1 : -1])[:, 0]

    adv, rewards = [], batch.reward.flatten().tolist()
    for row, r in zip(rows, rewards, strict=True):
        with torch.no_grad():
            value = [*values(first, *row).tolist(), 0.0]
        n, later, own = len(row[1]), 0.0, []
        gae_lambda = max(0.0, 1 - 1 / (0.3 * n))
        for t in reversed(range(n)):
            later = (r if t == n - 1 else 0.0) + value[t + 1] - value[t] + gae_lambda * later
            own.insert(0, later)
        adv.append(torch.tensor(own))
    flat = torch.cat(adv)
    right = [own["exact"] == 1 for it in batch.rollouts for own in it.components]
    assert 0 < sum(right) < len(right)
    right_tokens = sum(len(row[1]) for row, is_right in zip(rows, right, strict=True) if is_right)
    for step, other in zip(policy, critic, strict=True):
        model, network = step.at(), other.at()
        loss, value_loss = torch.tensor(0.0), torch.tensor(0.0)
        for i, row in enumerate(rows):
            logp = token_logp(model, *row, T)
            white = (adv[i] - flat.mean()) / (flat.std(correction=0) + 1e-8)
            loss = loss + clipped((logp - old[i]).exp(), white, 0.2, 0.28).sum() / len(flat)
            if right[i]:
                loss = loss - 0.1 * logp.sum() / right_tokens
            value_loss = value_loss + (values(network, *row) - rewards[i]).square().sum() / 2 / len(flat)
        check_gradient(step, model, loss)
        check_gradient(other, network, value_loss)
    assert math.isfinite(statistics.fmean(rewards))
