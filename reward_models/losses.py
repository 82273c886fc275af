"""The losses of reward models: pure functions, one number a pair, list, token or step. They reduce nothing.

Shapes: b rankings of k answers; n completions of t tokens; m labelled steps. Rewards and logits are fp32.
"""

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid


def bradley_terry(
    chosen: Float[Tensor, " b"], rejected: Float[Tensor, " b"], margin: Float[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """-log sigmoid(r_w - r_l - margin): the chosen answer should win, by `margin` at least.

    P(w beats l) = sigmoid(r_w - r_l) is the model of Bradley and Terry, "Rank analysis of incomplete block designs",
    1952; as a reward model's loss, Ouyang et al., 2022, arXiv 2203.02155, equation 1. The margin is that of Llama 2,
    Touvron et al., 2023, arXiv 2307.09288, equation 2; 0 leaves it out.
    """
    return -logsigmoid(chosen - rejected - margin)


def centring(chosen: Float[Tensor, " b"], rejected: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """(r_w + r_l)^2: a preference leaves the zero of the reward open, and this puts it in the middle.

    Eisenstein et al., "Helping or herding?", 2023, arXiv 2312.09244, section 2.
    """
    return (chosen + rejected).square()


def plackett_luce(reward: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """- sum_{i<k} log( exp r_i / sum_{j>=i} exp r_j ), rewards best first: each answer is chosen from those left.

    Plackett, "The analysis of permutations", 1975; Luce, 1959. With two answers it is Bradley-Terry.
    """
    left = reward.flip(1).logcumsumexp(1).flip(1)  # log sum_{j>=i}: a cumulative sum from the worst answer on
    return (left - reward).sum(1)


def outcome(logit: Float[Tensor, "n t"], right: Float[Tensor, " n"]) -> Float[Tensor, "n t"]:
    """Binary cross-entropy of every token against whether the whole solution is right.

    Cobbe et al., "Training verifiers to solve math word problems", 2021, arXiv 2110.14168, section 4.1: a verifier that
    predicts at every token learns to judge a solution while it is being written.
    """
    return binary_cross_entropy_with_logits(logit, right[:, None].expand_as(logit), reduction="none")


def process(logits: Float[Tensor, "m c"], label: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Cross-entropy of each step's class, read at the step's last token.

    Lightman et al., "Let's verify step by step", 2023, arXiv 2305.20050. `label`: 0 wrong, 1 neutral, 2 right.
    """
    return cross_entropy(logits, label, reduction="none")
