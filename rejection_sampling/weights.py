"""The weights of the start, for rounds that do not go on from the round before."""

import torch
from torch import nn


class StartingPoint:
    """The trained weights as they were when this was made, kept in the memory of the CPU.

    ReST-EM (Singh et al., 2023, arXiv 2312.06585) trains each round from the base model, so that what is
    learned from one round's samples is not learned on top of the last one's.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer):
        self.parameters = [it for it in model.parameters() if it.requires_grad]
        self.weights = [it.detach().to("cpu", copy=True) for it in self.parameters]
        self.optimizer = optimizer

    @torch.no_grad()
    def restore(self) -> None:
        """Put the weights back, and forget the optimizer's moments."""
        for parameter, weight in zip(self.parameters, self.weights, strict=True):
            parameter.copy_(weight)
        self.optimizer.state.clear()
