"""The losses of instruction tuning: of each token of a demonstration, from its log-probability.

>>> logp = torch.tensor([[-0.6931, -2.3026]])  # probabilities 1/2 and 1/10
>>> nll(logp)
tensor([[0.6931, 2.3026]])
>>> dft(logp)
tensor([[0.3466, 0.2303]])
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

Tokens = Float[Tensor, "n t"]


def nll(logp: Tokens) -> Tokens:
    """-logp: maximum likelihood. Its gradient, -grad pi / pi, is largest for tokens that the policy finds unlikely."""
    return -logp


def dft(logp: Tokens) -> Tokens:
    """-sg(pi) logp: dynamic fine-tuning. Its gradient is -grad pi, so it maximizes the mean probability of the tokens.

    Read as a policy gradient, maximum likelihood pays 1 / pi for the demonstrated token: the less likely, the more. The
    weight takes that out. What the policy cannot say by now it learns hardly at all.
    Wu et al., "On the Generalization of SFT: A Reinforcement Learning Perspective with Reward Rectification", 2025,
    arXiv 2508.05629.
    """
    return -logp.detach().exp() * logp


losses: dict[str, Callable[[Tokens], Tokens]] = {"nll": nll, "dft": dft}
