"""Very many completions of some prompts with the gradient of each: the population that batches are drawn from.

The gradient of log pi of a completion, over all weights, is kept as a count sketch: each weight is added, with a random
sign, to one of D buckets. Inner products of sketches are those of the gradients on average, with a relative error of
about sqrt(2 / D). Within a prompt the gradients are centred, as their expectation is 0; so in the population, too, a
baseline changes the noise of the gradient and not its expectation.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from claims.computed.advantages import ADVANTAGES, Groups, best_baseline
from rlhf.candidates import Candidates, distinct_problems, sample_candidates
from rlhf.groups import Group, micro_batches
from rlhf.logprobs import Scorer
from rlhf.models.policy import load
from rlhf.tasks.problem import messages_for
from rlhf.tasks.registry import open_task
from rlhf.tensors import masked_sum
from rlhf.text.chat import encode_prompt

BUCKETS = 2048
LONGEST = 64  # tokens of a completion


@dataclass(frozen=True)
class Pool:
    """b prompts with m completions each."""

    reward: Float[Tensor, "b m"]
    length: Int[Tensor, "b m"]
    score: Float[Tensor, "b m d"]  # gradient of log pi(completion), sketched and centred
    greedy: Float[Tensor, " b"]

    @property
    def gradient(self) -> Float[Tensor, " d"]:
        """Of the mean reward, over the whole population."""
        return (self.reward[..., None] * self.score).mean((0, 1))


def embedded_pool(seed: int, *, prompts: int, completions: int) -> Pool:
    """Of the embedded model on spell_backward, the first training problems of a seed."""
    task = open_task("spell_backward", {}, answer_in="think_tags")
    problems = distinct_problems(task, seed=seed, count=prompts)

    def sampled(count: int, temperature: float) -> list[Candidates]:
        return sample_candidates(
            "embedded", task, problems, count=count, max_new_tokens=LONGEST, seed=seed, temperature=temperature
        )

    model, tokenizer = load("embedded")
    many, greedy = sampled(completions, 1.0), sampled(1, 0.0)
    groups = [
        Group(encode_prompt(tokenizer, messages_for(one.problem, None)), [answer.tokens for answer in one.answers])
        for one in many
    ]
    score = torch.stack([sketches(model, group) for group in groups])
    return Pool(
        reward=torch.tensor([exact(one) for one in many], dtype=torch.float64),
        length=torch.tensor([[len(answer.tokens) for answer in one.answers] for one in many]),
        score=score - score.mean(1, keepdim=True),
        greedy=torch.tensor([exact(one)[0] for one in greedy], dtype=torch.float64),
    )


def exact(one: Candidates) -> list[float]:
    return [verdict.exact if verdict else 0.0 for verdict in one.verdicts]


def sketches(model: PreTrainedModel, group: Group) -> Float[Tensor, "m d"]:
    """The sketched gradient of each completion's log-probability; of equal completions it is computed once."""
    scorer = Scorer(model)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    bucket, sign = hashes(sum(weight.numel() for weight in weights))
    found: dict[tuple[int, ...], Tensor] = {}
    for tokens in map(tuple, group.completions):
        if tokens not in found:
            (rows,) = micro_batches([Group(group.prompt, [tokens])], token_budget=10**6)
            scores = scorer(rows)
            gradient = torch.autograd.grad(masked_sum(scores.logp, scores.mask).sum(), weights)
            flat = torch.cat([part.flatten() for part in gradient])
            found[tokens] = torch.zeros(BUCKETS).index_add_(0, bucket, flat * sign).double()
    return torch.stack([found[tuple(tokens)] for tokens in group.completions])


def hashes(weights: int) -> tuple[Int[Tensor, " p"], Float[Tensor, " p"]]:
    """The bucket and the sign of each weight, always the same."""
    generator = torch.Generator().manual_seed(0)
    bucket = torch.randint(BUCKETS, (weights,), generator=generator)
    return bucket, torch.randint(2, (weights,), generator=generator).float() * 2 - 1


def noise(pool: Pool, *, group_size: int, batches: int, seed: int) -> dict[str, dict[str, float]]:
    """What the gradient of one batch is worth by each advantage, over batches drawn from the pool with replacement.

    All arms see the same draws.

    noise        E |g - E g|^2 / |E g|^2
    baseline     the mean of what is subtracted; none where the advantage is more than a difference
    direction    the cosine between E g and the gradient of the mean reward
    """
    b, m = pool.reward.shape
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(m, (batches, b, group_size), generator=generator)
    number = drawn + m * torch.arange(b)[:, None]  # of the completion in the whole population
    groups = Groups(
        reward=pool.reward.flatten()[number],
        length=pool.length.flatten()[number],
        greedy=pool.greedy,
        success=pool.reward.mean(1),
        best=best_baseline(pool.reward, pool.score.square().sum(2), torch.full((b, m), 1 / m)),
    )
    score = pool.score.flatten(0, 1)
    found = {}
    for name, advantage in ADVANTAGES.items():
        adv = advantage(groups)
        used = number[:, :, : adv.shape[2]].flatten(1)
        weight = score.new_zeros(batches, b * m).scatter_add_(1, used, adv.flatten(1) / used.shape[1])
        gradient = weight @ score
        mean = gradient.mean(0)
        variance = (gradient - mean).square().sum(1).sum() / (batches - 1)
        signal = mean.square().sum() - variance / batches  # the mean of finitely many is longer than the expectation
        found[name] = {
            "noise": float(variance / signal),
            "baseline": float((groups.reward[:, :, : adv.shape[2]] - adv).mean()) if name != "GRPO" else math.nan,
            "direction": float(torch.cosine_similarity(mean, pool.gradient, dim=0)),
        }
    return found
