"""ReMax: a simple, effective, and efficient RL method for aligning language models. Li et al. 2023, arXiv 2310.10505.

REINFORCE whose baseline is what the policy would say without sampling: the reward of the greedy completion.

    adv_i = r_i - r(greedy completion of the same prompt)
    loss  = mean over sequences of sum over tokens of -adv * logp

Choices here. The sum over tokens, so this is the true gradient of the expected reward. A KL penalty would be k1 summed
over the completion, off its reward alone; it is off by default. group_size is that of the other algorithms; the paper
has 1. The greedy completion costs one more of each prompt in sampling, and no update.

What to know. The baseline depends on the prompt and on no sample, so the gradient is unbiased and one completion of a
prompt is enough, where RLOO and GRPO need several. It lowers the variance only if the greedy completion is about as
good as the sampled ones: where sampling is worse than the mode, nearly all advantages are negative.
"""

from jaxtyping import Float
from torch import Tensor

from policy_gradients.algorithm import Algorithm, Penalty
from policy_gradients.surrogates import reinforce
from rlhf.aggregate import sequence_sum


def minus_greedy(reward: Float[Tensor, "b g"], greedy_reward: Float[Tensor, "b 1"]) -> Float[Tensor, "b g"]:
    """r - the reward of the greedy completion of the prompt.

    >>> minus_greedy(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0], [0.0]]))
    tensor([[ 0., -1.],
            [ 1.,  0.]])
    """
    return reward - greedy_reward


remax = Algorithm(
    advantage=minus_greedy,
    ratio=None,
    surrogate=reinforce,
    aggregate=sequence_sum,
    needs=frozenset({"greedy"}),
    kl=Penalty(kl_coef=0.0, kl_in="reward"),
)
