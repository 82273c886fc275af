"""OPO: on-policy reinforcement learning with the optimal reward baseline. Hao et al. 2025, arXiv 2505.23585.

Of all baselines, take the one with the least variance of the gradient: the mean reward of the tokens, not of the
completions.

    b     = sum_i l_i * r_i / sum_i l_i                over the g completions of a prompt, l_i their tokens
    adv_i = r_i - b
    loss  = mean over sequences of sum over tokens of -adv * logp

The variance of (r - b) * grad log pi(o) is least at b = E[|grad log pi(o)|^2 * r] / E[|grad log pi(o)|^2]. If the
gradients of tokens are orthogonal and of one size, |grad log pi(o)|^2 is proportional to the length, and b is as above.

Choices here. The sum over tokens, since log pi(o) is one: b is optimal where all completions of a step share the
denominator, so for token_mean and fixed_length too. sequence_mean divides the gradient of a completion by its length:
then b is not optimal, and any baseline biases the gradient. Exactly on-policy, as in the paper: no ratio, so a batch
serves one optimizer step. No standard deviation, no KL, no entropy bonus. The length is that in the loss: a completion
that the loss leaves out (`truncated: mask`) has no gradient, hence no weight.

What to know. The advantages of a prompt's tokens add up to 0, those of its completions do not: where long completions
are wrong, b is below the mean reward, and a short right one gains more. With equal lengths this is RLOO's gradient
times (g - 1) / g. As in Dr. GRPO the baseline contains the completion itself; with unequal lengths the bias is no mere
factor, and falls as g grows.
"""

from jaxtyping import Float, Int
from torch import Tensor

from policy_gradients.advantages import center
from policy_gradients.algorithm import Algorithm
from policy_gradients.surrogates import reinforce
from rlhf.aggregate import sequence_sum


def center_by_length(reward: Float[Tensor, "b g"], length: Int[Tensor, "b g"]) -> Float[Tensor, "b g"]:
    """r - sum_i l_i * r_i / sum_i l_i within the group; exactly 0 in a group of equal rewards.

    The right one of two completions has 1 token, the wrong one 3: the baseline is 1/4.

    >>> center_by_length(torch.tensor([[1.0, 0.0]]), torch.tensor([[1, 3]]))
    tensor([[ 0.7500, -0.2500]])
    """
    centered = center(reward)  # first, so that equal rewards are 0 whatever rounds
    tokens = length.sum(1, keepdim=True).clamp(min=1)  # 0 where the loss leaves the whole group out
    return centered - (length * centered).sum(1, keepdim=True) / tokens


opo = Algorithm(
    advantage=center_by_length,
    ratio=None,
    surrogate=reinforce,
    aggregate=sequence_sum,
    needs=frozenset({"groups", "lengths"}),
)
