"""Rules that look at all tokens of an optimizer step together: which of them the policy learns from.

Each rule compares a number of every token with a cut that the whole step decides, over all micro-batches and processes.
The numbers are those of the weights that the step starts from: a pass without gradient before it. Tokens that are left
out stay in the denominators of the loss.

    top_entropy      the share with the highest entropy stays: Wang et al., "Beyond the 80/20 rule", 2025, arXiv
                     2506.01939
    second_moment    the largest log(pi / pi_old)^2 go, until their mean is small enough: M2PO, see algorithms/m2po.py
    covariance       of log-probability and advantage, whose mean over tokens is how fast the entropy falls: Cui et al.,
                     "The entropy mechanism of reinforcement learning for reasoning language models", 2025, arXiv
                     2505.22617. clip: a random few of those in a band go (Clip-Cov); kl: the highest stay and pay
                     |log(pi / pi_old)| (KL-Cov)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float
from torch import Tensor

from policy_gradients.config import PolicyGradientConfig
from rlhf.distributed import gather
from rlhf.random_keys import of_tokens

# The first tokens of a prompt's completions come from one distribution: they stay together, however rows are laid out.
ROUNDING = 1e-5  # nats


@dataclass(frozen=True)
class StepTokens:
    """The tokens of an optimizer step, of this process, under the weights that the step starts from."""

    logp: Float[Tensor, "n t"]
    logp_old: Float[Tensor, "n t"]
    entropy: Float[Tensor, "n t"]
    adv: Float[Tensor, "n t"]
    mask: Bool[Tensor, "n t"]
    uniform: Float[Tensor, "n t"]  # a random number in [0, 1) for each token, the same however a step is divided


@dataclass(frozen=True)
class Chosen:
    """What the rules make of the tokens of an optimizer step."""

    kept: Bool[Tensor, "n t"]  # in the policy's loss
    held: Bool[Tensor, "n t"]  # pays for moving away from logp_old


def has_rules(config: PolicyGradientConfig) -> bool:
    return config.top_entropy < 1 or config.second_moment is not None or config.covariance != "none"


def choose(config: PolicyGradientConfig, tokens: StepTokens, accelerator: Accelerator) -> Chosen:
    """The tokens that the rules of the config keep, and those that they hold."""
    kept, held = tokens.mask, torch.zeros_like(tokens.mask)

    def of_all(values: Float[Tensor, "n t"]) -> Float[Tensor, " m"]:
        """The values of all tokens that count, of all processes."""
        return torch.cat(gather([values[tokens.mask].cpu()], accelerator))

    if config.top_entropy < 1:
        kept = kept & (tokens.entropy >= highest(of_all(tokens.entropy), share=config.top_entropy) - ROUNDING)
    if config.second_moment is not None:
        squares = (tokens.logp - tokens.logp_old).square()
        kept = kept & (squares <= largest_within(of_all(squares), mean=config.second_moment))
    if config.covariance != "none":
        adv, logp = of_all(tokens.adv), of_all(tokens.logp)
        covariance = (tokens.adv - float(adv.mean())) * (tokens.logp - float(logp.mean()))
        if config.covariance == "kl":
            held = tokens.mask & (covariance >= highest(of_all(covariance), share=config.covariance_share))
        else:
            inside = (covariance > config.covariance_low) & (covariance < config.covariance_high)
            lottery = torch.where(inside, tokens.uniform, -1.0)
            kept = kept & ~(inside & (lottery >= highest(of_all(lottery), share=config.covariance_share)))
    return Chosen(kept, held)


def highest(values: Float[Tensor, " m"], *, share: float) -> float:
    """The smallest of that share of the values that is the highest: of one value at least.

    >>> highest(torch.tensor([3.0, 1.0, 4.0, 2.0]), share=0.5)
    3.0
    """
    if not len(values):
        return 0.0
    return float(values.topk(max(1, int(share * len(values)))).values[-1])


def largest_within(values: Float[Tensor, " m"], *, mean: float) -> float:
    """The largest value that may stay so that the mean of those that stay, the smallest ones, is at most `mean`.

    The mean of 0, 1 and 5 is 2, of 0 and 1 it is 0.5:

    >>> largest_within(torch.tensor([1.0, 5.0, 0.0]), mean=1.0)
    1.0
    """
    ordered = values.double().sort().values
    means = ordered.cumsum(0) / torch.arange(1, len(ordered) + 1)
    count = int((means <= mean).sum())
    return float(ordered[count - 1]) if count else -1.0


def uniform_numbers(seed: int, numbers: Sequence[int], *, g: int, t: int) -> Float[Tensor, "n t"]:
    """A random number for each token of the g completions of these problems of the training stream."""
    return torch.cat(
        [torch.from_numpy(np.random.default_rng(of_tokens(seed, n)).random((g, t), np.float32)) for n in numbers]
    )
