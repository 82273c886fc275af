"""Every optimizer step of the loop, recomputed from the papers' formulas: one plain row a completion, and autograd."""

import statistics

import pytest
import torch
from policy_gradient_steps import (
    BETAS,
    DECAY,
    LONGEST,
    G,
    T,
    all_logp,
    clipped,
    linear,
    parts,
    rows_of,
    score_of,
    z_scores,
)
from steps_by_hand import Step, check_adamw, check_gradient, k3, norm_of, token_logp
from torch import Tensor, nn


@pytest.mark.parametrize("truncated", ["keep", "mask"])
def test_grpo_with_kl_in_the_loss(run, truncated: str) -> None:
    """Two batches, two passes of two steps each: z scores, the clip, weights against the sampler, coefficient times k3,
    the mean over a step's completions; a coefficient that adapts to the batch's own KL; warm-up and linear decay."""
    extra = ["--algorithm", "grpo", "--epochs_per_batch", "2", "--steps_per_batch", "2", "--max_steps", "2"]
    extra += ["--kl_coef", "0.3", "--kl_target", "0.5", "--importance", "truncate", "--importance_cap", "1.1"]
    extra += ["--lr", "0.02", "--lr_schedule", "linear", "--warmup_steps", "2", "--truncated", truncated]
    done = run(*extra, "--clip_high", "0.15")
    assert [step.lr for step in done.steps] == pytest.approx(linear(0.02, 2, 8))
    check_adamw(done.steps, betas=BETAS, weight_decay=DECAY)
    coef, held = 0.3, 0
    for k, batch in enumerate(done.batches):
        own = done.steps[4 * k : 4 * k + 4]
        rows, adv = rows_of(batch), z_scores(batch)
        cut = [it for rollout in batch.rollouts for it in rollout.sampled.truncated]
        counted = [i for i in range(len(rows)) if truncated == "keep" or not cut[i]]
        assert (len(counted) < len(rows)) == (truncated == "mask")
        old, reference = all_logp(own[0].at(), batch), all_logp(run.reference, batch)
        sampler = [torch.tensor(logp) for it in batch.rollouts for logp in it.sampled.logp]
        kl, tokens = 0.0, 0
        losses: list[float] = []
        for step, which in parts(batch, own, 2):
            model, terms = step.at(), []
            for i in set(which) & set(counted):
                logp = token_logp(model, *rows[i], T)
                weight = (old[i] - sampler[i]).exp().clamp(max=1.1)
                loss = clipped((logp - old[i]).exp(), adv[i], 0.2, 0.15) * weight
                held += int(((logp - old[i]).exp() > 1.15).sum())
                terms.append((loss + coef * k3(logp, reference[i])).mean())
                kl, tokens = kl + float(k3(logp, reference[i]).detach().sum()), tokens + len(logp)
            loss = torch.stack(terms).sum() / len(terms)
            losses.append(float(loss.detach()))
            check_gradient(step, model, loss)
        assert done.metrics[k]["loss"] == pytest.approx(statistics.fmean(losses), abs=1e-5)
        assert done.metrics[k]["policy/kl_coef"] == pytest.approx(coef)
        assert done.metrics[k]["policy/kl"] == pytest.approx(kl / tokens, rel=1e-3)
        coef *= 1 + 0.1 * max(-0.2, min(0.2, kl / tokens / 0.5 - 1))
    assert held > 0, "nothing was clipped, so the clip was not tested"


def test_reinforce_with_kl_in_the_reward(run) -> None:
    """Three batches: the reward less coefficient times the sum of log(pi / reference), less the running mean of these;
    times the whole completion's log-probability, a mean over completions."""
    extra = ["--algorithm", "reinforce", "--max_steps", "3", "--kl_coef", "0.05", "--kl_in", "reward", "--lr", "0.01"]
    done = run(*extra, "--lr_schedule", "cosine")
    assert [step.lr for step in done.steps] == pytest.approx([0.01, 0.0075, 0.0025])
    baseline, means = 0.0, []
    for k, (batch, step) in enumerate(zip(done.batches, done.steps, strict=True)):
        model, reference = step.at(), all_logp(run.reference, batch)
        logp = [token_logp(model, *row, T) for row in rows_of(batch)]
        reward = batch.reward.flatten().tolist()
        charged = [
            r - 0.05 * float((own.detach() - ref).sum()) for r, own, ref in zip(reward, logp, reference, strict=True)
        ]
        assert max(abs(a - b) for a, b in zip(reward, charged, strict=True)) > 0.1
        loss = -sum((r - baseline) * own.sum() for r, own in zip(charged, logp, strict=True)) / len(logp)
        check_gradient(step, model, loss)
        means.append(statistics.fmean(charged))
        baseline = means[0] if k == 0 else 0.9 * baseline + 0.1 * means[-1]
    assert len({round(mean, 3) for mean in means}) == 3


def test_a_cut_completion_pays_its_penalty_into_the_baseline(run) -> None:
    """`truncated: mask` with the KL in the reward: a completion that was cut gives no gradient and is not counted, but
    its reward, less the penalty of its own tokens, is among those that the others of its prompt are compared with."""
    extra = ["--algorithm", "rloo", "--max_steps", "1", "--kl_coef", "0.3", "--kl_in", "reward", "--truncated", "mask"]
    done = run(*extra, "--lr", "0.01")
    (batch,), (step,) = done.batches, done.steps
    model, reference = step.at(), all_logp(run.reference, batch)
    logp = [token_logp(model, *row, T) for row in rows_of(batch)]
    cut = batch.truncated.tolist()
    penalty = [0.3 * float((own.detach() - ref).sum()) for own, ref in zip(logp, reference, strict=True)]
    assert any(abs(p) > 0.1 for p, is_cut in zip(penalty, cut, strict=True) if is_cut)
    charged = torch.tensor([r - p for r, p in zip(batch.reward.flatten().tolist(), penalty, strict=True)]).view(-1, G)
    adv = (charged - (charged.sum(1, keepdim=True) - charged) / (G - 1)).flatten().tolist()
    kept = [i for i in range(len(cut)) if not cut[i]]
    assert 0 < len(kept) < len(cut)
    check_gradient(step, model, -torch.stack([adv[i] * logp[i].sum() for i in kept]).sum() / len(kept))


@pytest.mark.parametrize("importance", ["truncate", "mask"])
def test_rloo_with_importance_weights(run, importance: str) -> None:
    """No ratio: pi over what the sampler said, without gradient, at its cap or 0 above it, whatever has moved since."""
    extra = ["--algorithm", "rloo", "--max_steps", "1", "--epochs_per_batch", "2", "--lr", "0.02", "--kl_coef", "0"]
    done = run(*extra, "--importance", importance, "--importance_cap", "1.2")
    (batch,) = done.batches
    reward = batch.reward.tolist()
    adv = [r - (sum(group) - r) / (G - 1) for group in reward for r in group]
    sampler = [torch.tensor(logp) for it in batch.rollouts for logp in it.sampled.logp]
    above = 0
    for step in done.steps:
        model, loss = step.at(), torch.tensor(0.0)
        for i, row in enumerate(rows_of(batch)):
            logp = token_logp(model, *row, T)
            weight = (logp.detach() - sampler[i]).exp()
            above += int((weight > 1.2).sum())
            weight = weight.clamp(max=1.2) if importance == "truncate" else weight * (weight <= 1.2)
            loss = loss - (weight * adv[i] * logp).sum() / len(adv)
        check_gradient(step, model, loss)
    assert above > 3


@pytest.mark.parametrize("backbone", ["own", "policy"])
def test_ppo_with_its_critic(run, backbone: str) -> None:
    """Two batches of two passes: k1 charged at each token, the reward at the last; GAE by loops over unpadded tokens;
    whitened by the batch's population std. The critic: the larger of two squared errors, halved, a mean over tokens."""
    gamma, lam, clip = 0.9, 0.8, 0.05
    extra = ["--algorithm", "ppo", "--max_steps", "2", "--epochs_per_batch", "2", "--lr", "0.01", "--kl_coef", "0.04"]
    extra += ["--gamma", str(gamma), "--gae_lambda", str(lam), "--critic.value_clip", str(clip)]
    done = run(*extra, "--critic.lr", "0.02", "--critic.backbone", backbone, "--critic.max_grad_norm", "0.7")
    policy, critic = done.of("policy"), done.of("critic")
    check_adamw(critic, betas=BETAS, weight_decay=DECAY)
    assert {(step.lr, step.max_grad_norm) for step in critic} == {(0.02, 0.7)}

    def values(step: Step, network: nn.Module, row: tuple[list[int], list[int]], model: nn.Module) -> Tensor:
        backbone_of = model.base_model if backbone == "policy" else network.backbone
        states = backbone_of(input_ids=torch.tensor([[*row[0], *row[1]]])).last_hidden_state[0, len(row[0]) - 1 : -1]
        return network.head(states.detach() if backbone == "policy" else states)[:, 0]

    moved = 0
    for k, batch in enumerate(done.batches):
        rows = rows_of(batch)
        first, first_critic = policy[2 * k].at(), critic[2 * k].at()
        old, reference = all_logp(first, batch), all_logp(run.reference, batch)
        with torch.no_grad():
            value = [values(critic[2 * k], first_critic, row, first) for row in rows]
        adv, target, to_go = [], [], []
        losses: list[tuple[float, float]] = []
        for i, r in enumerate(batch.reward.flatten().tolist()):
            reward = -0.04 * (old[i] - reference[i])
            reward[-1] += r
            later, own = 0.0, torch.zeros(len(reward))
            for t in reversed(range(len(reward))):
                following = float(value[i][t + 1]) if t + 1 < len(reward) else 0.0
                later = float(reward[t]) + gamma * following - float(value[i][t]) + gamma * lam * later
                own[t] = later
            adv.append(own)
            target.append(own + value[i])
            to_go.append(
                torch.tensor([sum(gamma**n * x for n, x in enumerate(reward[t:])) for t in range(len(reward))])
            )
        flat = torch.cat(adv).tolist()
        mean, std = statistics.fmean(flat), statistics.pstdev(flat)
        tokens = len(flat)
        for step, other in zip(policy[2 * k : 2 * k + 2], critic[2 * k : 2 * k + 2], strict=True):
            model, network = step.at(), other.at()
            # a critic on the policy's states reads those of the policy that has just been updated
            after = step.at()
            after.load_state_dict(step.after, strict=False)
            loss, value_loss = torch.tensor(0.0), torch.tensor(0.0)
            for i, row in enumerate(rows):
                ratio = (token_logp(model, *row, T) - old[i]).exp()
                loss = loss + clipped(ratio, (adv[i] - mean) / (std + 1e-8), 0.2, 0.2).sum() / tokens
                now = values(other, network, row, after)
                near = value[i] + (now - value[i]).clamp(-clip, clip)
                moved += int(((now - value[i]).abs() > clip).sum())
                errors = torch.maximum((now - target[i]) ** 2, (near - target[i]) ** 2) / 2
                value_loss = value_loss + errors.sum() / tokens
            check_gradient(step, model, loss)
            check_gradient(other, network, value_loss)
            losses.append((float(loss.detach()), float(value_loss.detach())))
        for key, own in zip(("loss", "critic/loss"), zip(*losses, strict=True), strict=True):
            assert done.metrics[k][key] == pytest.approx(statistics.fmean(own), abs=1e-5)
        assert done.metrics[k]["critic/grad_norm"] == pytest.approx(norm_of(critic[2 * k + 1]), rel=1e-4)
        assert done.metrics[k]["optim/grad_norm"] == pytest.approx(norm_of(policy[2 * k + 1]), rel=1e-4)
        outcome = torch.cat(to_go)
        explained = 1 - (outcome - torch.cat(value)).var(correction=0) / outcome.var(correction=0)
        assert done.metrics[k]["critic/explained_variance"] == pytest.approx(float(explained), abs=1e-4)
    assert moved > 0, "no value left its clip"


def test_dapo_with_resampling(run) -> None:
    """Groups all right or all wrong are replaced by the next in the stream that are not; what is used is in the order
    of the stream, and the stream goes on behind the last that was drawn. Loss: the mean over the step's tokens, of a
    clip that is wider above; rewards less the penalty for the last of the room."""
    done = run("--algorithm", "dapo", "--max_steps", "2", "--lr", "0.02", "--kl_coef", "0", "--epochs_per_batch", "2")
    at = 0
    for k, batch in enumerate(done.batches):
        good: list[int] = []
        start = at
        while len(good) < 4:
            good += [n for n in range(at, at + 4) if done.rewarded[n].is_mixed]
            at += 4
        numbers = [rollout.number for rollout in batch.rollouts]
        assert numbers == good[:4]
        assert done.metrics[k]["groups/drawn"] == at - start
        drawn = [done.rewarded[n].sampled.tokens for n in range(start, at)]
        assert done.metrics[k]["sampler/tokens"] == sum(len(own) for each in drawn for own in each)
        rows, adv, own = rows_of(batch), z_scores(batch), done.steps[2 * k : 2 * k + 2]
        for (_, tokens), reward, text in zip(
            rows, batch.reward.flatten().tolist(), [t for it in batch.rollouts for t in it.texts], strict=True
        ):
            free = 0.8 * LONGEST
            assert reward == pytest.approx(score_of(text) / 48 - max(0, (len(tokens) - free) / (LONGEST - free)))
        old = all_logp(own[0].at(), batch)
        for step in own:
            model = step.at()
            loss = sum(
                clipped((token_logp(model, *row, T) - old[i]).exp(), adv[i], 0.2, 0.28).sum()
                for i, row in enumerate(rows)
            )
            check_gradient(step, model, loss / sum(len(tokens) for _, tokens in rows))
    assert at > 8, "nothing was resampled"
