"""A key-value cache that keeps each prompt once for all its completions, and the attention that reads it."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AttentionInterface, PreTrainedConfig


def bytes_of_token(config: PreTrainedConfig, *, width: int) -> int:
    """Of the keys and values of a token in all layers; `width`: bytes of a number."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return 2 * width * config.num_hidden_layers * heads * head


class PrefixCache:
    """Keys and values of prompts, once each, and of their completions, written in place.

    It has the methods of transformers' caches that a forward pass calls. The first forward pass (of the right-padded
    prompts, causal) fills `prompt`; every later one adds one token to each completion.

    Shapes: b prompts of up to p tokens, g completions of each, n = b * g rows at first, fewer after `keep`.
    """

    def __init__(self, lengths: Int[Tensor, " b"], group_size: int, max_new_tokens: int):
        self.prompt: list[tuple[Tensor, Tensor]] = []  # for each layer, (b, kv heads, p, d)
        self.completion: list[Tensor] = []  # for each layer, (2, n, kv heads, max_new_tokens, d): keys and values
        self.length = 0  # tokens of each completion in `completion`
        self.max_new_tokens = max_new_tokens
        self.group_size = group_size
        # The place of each row of the batch in the (b, g) grid of all completions; None while all are there.
        self.slot: Tensor | None = None
        padding = torch.arange(int(lengths.max()), device=lengths.device) >= lengths[:, None]
        self.is_padded = bool(padding.any())
        self.bias = torch.zeros_like(padding, dtype=torch.float32).masked_fill_(padding, -torch.inf)  # (b, p)
        self.ahead: Tensor | None = None  # (s,) -inf at places that a completion's own tokens have not reached

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_args, **_kwargs) -> tuple[Tensor, Tensor]:
        """Store the keys and values of new tokens; returns those that the layer attends to beside the prompt's.

        Under autocast they are stored as attention reads them, in half precision, though some layers make fp32 keys.
        """
        if torch.is_autocast_enabled(key.device.type):
            half = torch.get_autocast_dtype(key.device.type)
            key, value = key.to(half), value.to(half)
        if layer_idx == len(self.prompt):  # prefill
            self.prompt.append((key, value))
            return key, value
        return self.store(torch.stack([key.squeeze(2), value.squeeze(2)]), layer_idx)

    def store(self, new: Float[Tensor, "2 n k d"], layer_idx: int) -> tuple[Tensor, Tensor]:
        """Write keys and values of the newest token of each completion behind those before. Returns all of them."""
        if layer_idx == len(self.completion):  # first new token
            self.completion.append(new.new_zeros((*new.shape[:3], self.max_new_tokens, new.shape[3])))
        key, value = self._write(new, self.completion[layer_idx], layer_idx)
        return key, value

    def _write(self, new: Tensor, stored: Tensor, layer_idx: int) -> Tensor:
        if layer_idx == 0:
            self.length += 1
        stored[:, :, :, self.length - 1] = new
        return stored[:, :, :, : self.length]

    def keep(self, rows: Int[Tensor, " m"]) -> None:
        """Keep these rows of the batch and drop the others, whose completions have ended."""
        self.slot = rows if self.slot is None else self.slot[rows]
        for layer, stored in enumerate(self.completion):
            fresh = stored.new_zeros((2, len(rows), *stored.shape[2:]))
            fresh[:, :, :, : self.length] = stored[:, rows, :, : self.length]
            self.completion[layer] = fresh

    def get_seq_length(self, _layer_idx: int = 0) -> int:
        return self.bias.shape[1] + self.length if self.prompt else 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.get_seq_length(layer_idx)

    def get_mask_sizes(self, query_length, _layer_idx: int = 0) -> tuple[int, int]:
        return self.get_seq_length() + int(query_length), 0

    @property
    def is_compileable(self) -> bool:
        return False

    is_sliding = (False,)


class PrefixCacheAtPlace(PrefixCache):
    """A `PrefixCache` whose tensors stay where they are, so that a captured step can be replayed for the next token.

    Where the next token is stored is a tensor too, `place` (1,). A layer attends to the first `extent` places of the
    completions; those behind `place` have the bias -inf.
    """

    def __init__(self, lengths: Int[Tensor, " b"], group_size: int, max_new_tokens: int):
        super().__init__(lengths, group_size, max_new_tokens)
        self.place = torch.zeros(1, dtype=torch.long, device=lengths.device)
        self.extent = max_new_tokens

    def _write(self, new: Tensor, stored: Tensor, layer_idx: int) -> Tensor:
        if layer_idx == 0:
            behind = torch.arange(self.extent, device=self.place.device) > self.place
            self.ahead = torch.zeros_like(behind, dtype=torch.float32).masked_fill_(behind, -torch.inf)
        stored.index_copy_(3, self.place, new[:, :, :, None])
        return stored[:, :, :, : self.extent]

    def keep(self, rows: Int[Tensor, " m"]) -> None:
        self.length = self.extent  # copied are all places that may have been written
        super().keep(rows)


def prefix_decode_attention(
    module: Any,  # the attention layer, which knows its layer_idx
    query: Float[Tensor, "n h 1 d"],
    key: Float[Tensor, "n k s d"],
    value: Float[Tensor, "n k s d"],
    _attention_mask: None,
    scaling: float,
    prefix_cache: PrefixCache,
    **_unused,
) -> tuple[Float[Tensor, "n 1 h d"], None]:
    """Attention of one new token of each completion over [keys of its prompt, its own keys]."""
    n, h, _, d = query.shape
    heads = query.view(n, key.shape[1], -1, d) * scaling
    return attend(heads, key, value, prefix_cache, module.layer_idx).view(n, 1, h, d), None


def attend(
    query: Float[Tensor, "n k rep d"],
    key: Float[Tensor, "n k s d"],
    value: Float[Tensor, "n k s d"],
    cache: PrefixCache,
    layer_idx: int,
) -> Float[Tensor, "n k rep d"]:
    """What each query, scaled, makes of the values of its prompt and of its completion.

    The queries of a prompt's g completions, and of the `rep` heads that share a key head, are multiplied with the
    prompt's keys in one matrix product, so these keys are read once.
    """
    n, k, rep, d = query.shape
    prompt_key, prompt_value = (x.flatten(0, 1) for x in cache.prompt[layer_idx])  # (b * k, p, d)
    own_key, own_value = key.flatten(0, 1), value.flatten(0, 1)  # (n * k, s, d)
    b, p = cache.bias.shape
    g, slot = cache.group_size, cache.slot

    def to_prompts(x: Tensor) -> Tensor:  # (n, k, rep, *) -> (b * k, g * rep, *)
        grid = x if slot is None else x.new_zeros(b * g, *x.shape[1:]).index_copy_(0, slot, x)
        return grid.view(b, g, k, rep, -1).transpose(1, 2).reshape(b * k, g * rep, -1)

    def to_completions(x: Tensor) -> Tensor:  # the inverse, as (b, g, k, rep, *) while all are there
        grid = x.view(b, k, g, rep, -1).transpose(1, 2)
        return grid if slot is None else grid.flatten(0, 1)[slot]

    on_prompt = torch.bmm(to_prompts(query), prompt_key.transpose(1, 2))
    if cache.is_padded:
        on_prompt.view(b, -1, p).add_(cache.bias[:, None])
    on_completion = torch.bmm(query.reshape(n * k, rep, d), own_key.transpose(1, 2))
    if cache.ahead is not None:
        on_completion.add_(cache.ahead)
    on_prompt = to_completions(on_prompt)
    score = torch.cat([on_prompt, on_completion.view(*on_prompt.shape[:-1], -1)], -1).view(n, k, rep, -1)
    weight = score.softmax(-1, dtype=torch.float32).to(value.dtype)
    of_prompt = to_completions(torch.bmm(to_prompts(weight[..., :p]), prompt_value))
    of_completion = torch.bmm(weight[..., p:].flatten(0, 1), own_value)
    return (of_completion.view(of_prompt.shape) + of_prompt).view(n, k, rep, d)


AttentionInterface.register("prefix_decode", prefix_decode_attention)
