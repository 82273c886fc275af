"""Groups through a model: log-probabilities, right-padded (n, t), whatever the rows looked like."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.groups import Group, Rows, micro_batches
from rlhf.tensors import token_logp


class Scores(NamedTuple):
    """Of n completions of at most t tokens. Zero where the mask is False."""

    logp: Float[Tensor, "n t"]  # log-probability of the sampled token, nats
    entropy: Float[Tensor, "n t"]  # of the distribution it was sampled from, nats, without gradient
    mask: Bool[Tensor, "n t"]


class Scorer(nn.Module):
    """A causal language model whose forward pass returns `Scores`.

    A module rather than a function, so that DDP and FSDP can wrap it: their hooks run around `forward`.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, rows: Rows, temperature: float = 1.0) -> Scores:
        states = hidden_states(self.model, rows)
        # Only the states that predict a completion's token that counts reach the vocabulary projection.
        logp = states.new_zeros(rows.mask.shape, dtype=torch.float32)
        entropy = torch.zeros_like(logp)
        picked, picked_entropy = token_logp(
            states.flatten(0, 1)[rows.source[rows.mask]],
            self.model.get_output_embeddings().weight,
            rows.target[rows.mask],
            temperature=temperature,
        )
        logp[rows.mask] = picked
        entropy[rows.mask] = picked_entropy
        return Scores(logp, entropy, rows.mask)


def hidden_states(model: PreTrainedModel, rows: Rows) -> Float[Tensor, "r l d"]:
    """The last hidden states of the backbone, the vocabulary projection left out."""
    if rows.visible is None:  # plain causal rows are what every architecture takes, positions from 0 on its default
        return model.base_model(input_ids=rows.input_ids, use_cache=False).last_hidden_state
    mask = rows.visible
    if model.config._attn_implementation == "eager":  # adds the mask to its scores, as numbers; kernels take booleans
        mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill_(~mask, torch.finfo(torch.float32).min)
    return model.base_model(
        input_ids=rows.input_ids, position_ids=rows.position_ids, attention_mask=mask, use_cache=False
    ).last_hidden_state


@torch.no_grad()
def score(
    scorer: nn.Module,
    groups: Sequence[Group],
    *,
    token_budget: int,
    device: torch.device,
    temperature: float = 1.0,
    shared_prefix: bool = True,
) -> Scores:
    """Score whole batches without gradient, in the order of the groups' completions."""
    longest = max(len(c) for group in groups for c in group.completions)
    n = sum(len(group.completions) for group in groups)
    logp, entropy = torch.zeros(n, longest, device=device), torch.zeros(n, longest, device=device)
    mask = torch.zeros(n, longest, dtype=torch.bool, device=device)
    for rows in micro_batches(groups, token_budget=token_budget, shared_prefix=shared_prefix):
        rows = rows.to(device)
        part = scorer(rows, temperature)
        t = rows.mask.shape[1]
        logp[rows.sequence, :t], entropy[rows.sequence, :t], mask[rows.sequence, :t] = part
    return Scores(logp, entropy, mask)
