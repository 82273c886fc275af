"""Log-probabilities of the completions of groups: right-padded (n, t), whatever the layout of the rows."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.groups import Group, Rows, micro_batches
from rlhf.models.attention import attention_kernel
from rlhf.models.unpadded import goes_unpadded, unpadded_states
from rlhf.tensors import token_logp


class Scores(NamedTuple):
    """Log-probabilities and entropies of n completions of at most t tokens; zero where the mask is False."""

    logp: Float[Tensor, "n t"]  # log-probability of the sampled token, nats
    entropy: Float[Tensor, "n t"]  # of the distribution over the vocabulary, nats
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
        # Only states that predict a token in the loss mask reach the vocabulary projection.
        logp = states.new_zeros(rows.mask.shape, dtype=torch.float32)
        entropy = torch.zeros_like(logp)
        picked, picked_entropy = token_logp(
            states.flatten(0, 1)[rows.logit_index[rows.mask]],
            self.model.get_output_embeddings().weight,
            rows.labels[rows.mask],
            temperature=temperature,
        )
        logp[rows.mask] = picked
        entropy[rows.mask] = picked_entropy
        return Scores(logp, entropy, rows.mask)


def hidden_states(model: PreTrainedModel, rows: Rows) -> Float[Tensor, "r l d"]:
    """The last hidden states of the backbone, before the vocabulary projection."""
    if goes_unpadded(model, rows):
        return unpadded_states(model, rows)
    inputs = {"input_ids": rows.input_ids}
    if rows.attention_mask is not None:  # causal rows need no further arguments, and every architecture takes them
        mask = rows.attention_mask
        if model.config._attn_implementation == "eager":  # eager attention adds its mask; the kernels take booleans
            mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill_(~mask, torch.finfo(torch.float32).min)
        inputs |= {"position_ids": rows.position_ids, "attention_mask": mask}
    with attention_kernel(model, rows):
        return model.base_model(**inputs, use_cache=False).last_hidden_state


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
    """`Scores` of all completions without gradient, in the order of the groups and their completions."""
    longest = max((len(c) for group in groups for c in group.completions), default=0)
    n = sum(len(group.completions) for group in groups)
    logp = torch.zeros(n, longest, device=device)
    entropy = torch.zeros(n, longest, device=device)
    mask = torch.zeros(n, longest, dtype=torch.bool, device=device)
    for rows in micro_batches(groups, token_budget=token_budget, shared_prefix=shared_prefix):
        rows = rows.to(device)
        part = scorer(rows, temperature)
        t = rows.mask.shape[1]
        logp[rows.index, :t], entropy[rows.index, :t], mask[rows.index, :t] = part
    return Scores(logp, entropy, mask)


@torch.no_grad()
def completion_states(
    model: PreTrainedModel,
    groups: Sequence[Group],
    *,
    token_budget: int,
    device: torch.device,
    shared_prefix: bool = True,
) -> Float[Tensor, "n t d"]:
    """The hidden states that predict each token of all completions, in the order of the groups and their completions;
    zero behind the end of a completion. Less than the logits by vocabulary / d."""
    longest = max((len(c) for group in groups for c in group.completions), default=0)
    n = sum(len(group.completions) for group in groups)
    states = None
    for rows in micro_batches(groups, token_budget=token_budget, shared_prefix=shared_prefix):
        rows = rows.to(device)
        part = hidden_states(model, rows).flatten(0, 1)[rows.logit_index] * rows.mask[..., None]
        if states is None:
            states = part.new_zeros(n, longest, part.shape[-1])
        states[rows.index, : part.shape[1]] = part
    return torch.zeros(0, 0, 1, device=device) if states is None else states
