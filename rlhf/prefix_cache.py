"""A key-value cache that keeps each prompt once for all its completions, and the attention that reads it."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AttentionInterface, PreTrainedConfig

BLOCK = 8  # tokens of a completion that there is room for at a time


def bytes_of_token(config: PreTrainedConfig, *, width: int) -> int:
    """Of the keys and values of a token in all layers; none without attention. `width`: bytes of a number."""
    if not hasattr(config, "num_attention_heads"):
        return 0
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return 2 * width * config.num_hidden_layers * heads * head


class KeysValues:
    """Keys and values in one layer, and views of them as attention multiplies them.

    Heads come first, so that rows have the same order in the products with prompts and with completions. The numbers of
    all heads and rows lie side by side: PyTorch's bf16 product would copy others at each step.

    Shapes: k key heads of d numbers; s tokens of each of r prompts or completions.
    """

    def __init__(self, both: Float[Tensor, "2 k r s d"]):
        self.both = both
        self.key = both[0].flatten(0, 1).transpose(1, 2)  # (k * r, d, s)
        self.value = both[1].flatten(0, 1)  # (k * r, s, d)


class PrefixCache:
    """Keys and values of prompts, once each, and of their completions, written in place.

    It has the methods of transformers' caches that a forward pass calls. The first forward pass (of the right-padded
    prompts, causal) fills `prompt`; every later one adds one token to each completion.

    Shapes: b prompts of up to p tokens, g completions of each, n = b * g rows at first, fewer after `keep`; k key
    heads of d numbers; s places for the tokens of each completion.
    """

    def __init__(self, lengths: Int[Tensor, " b"], group_size: int, max_new_tokens: int):
        self.prompt: list[KeysValues] = []  # for each layer
        self.completion: list[KeysValues] = []
        self.length = 0  # tokens of each completion in `completion`
        self.max_new_tokens = max_new_tokens
        self.group_size = group_size
        # None while all completions are there. Later `slot` is the place of each row of the batch in the (b, g) grid of
        # all completions. For attention, where heads come first: the places of all heads' rows (k * n,), and the row at
        # each of all heads' places (k * b * g,), which is any row where the completion has left.
        self.slot: Tensor | None = None
        self.places: Tensor | None = None
        self.row_at: Tensor | None = None
        padding = torch.arange(int(lengths.max()), device=lengths.device) >= lengths[:, None]
        self.is_padded = bool(padding.any())
        self.bias = torch.zeros_like(padding, dtype=torch.float32).masked_fill_(padding, -torch.inf)  # (b, p)
        self.ahead = self.bias[0, :0]  # (s,) -inf at places that a completion's own tokens have not reached

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_args, **_kwargs) -> tuple[Tensor, Tensor]:
        """Store the keys and values of new tokens; returns them, for the attention of prompts.

        Under autocast they are stored as attention reads them, in half precision, though some layers make fp32 keys.
        """
        if torch.is_autocast_enabled(key.device.type):
            half = torch.get_autocast_dtype(key.device.type)
            key, value = key.to(half), value.to(half)
        if layer_idx == len(self.prompt):  # prefill
            self.prompt.append(KeysValues(torch.stack([key.transpose(0, 1), value.transpose(0, 1)])))
        else:
            self.store(torch.stack([key.squeeze(2), value.squeeze(2)]).transpose(1, 2), layer_idx)
        return key, value

    def store(self, new: Float[Tensor, "2 k n d"], layer_idx: int) -> None:
        """Write keys and values of the newest token of each completion behind those before."""
        if layer_idx == 0:
            self._take_place(self.prompt[0].both.dtype)
        if layer_idx == len(self.completion):  # first new token
            _, k, n, d = new.shape
            self.completion.append(KeysValues(self.prompt[layer_idx].both.new_empty(2, k, n, 0, d)))
        both = self.completion[layer_idx].both
        if both.shape[3] < len(self.ahead):
            self.completion[layer_idx] = self._with_room(both, len(self.ahead))
        self._write(new, self.completion[layer_idx].both)

    def _take_place(self, dtype: torch.dtype) -> None:
        """Choose the place of the newest token. New places are made in blocks: products of new sizes are costly."""
        self.length += 1
        blocks = -(-self.length // BLOCK)
        self.ahead = self.bias.new_zeros(min(blocks * BLOCK, self.max_new_tokens), dtype=dtype)
        self.ahead[self.length :] = -torch.inf

    def _write(self, new: Float[Tensor, "2 k n d"], stored: Float[Tensor, "2 k n s d"]) -> None:
        stored[:, :, :, self.length - 1] = new

    def keep(self, rows: Int[Tensor, " m"]) -> None:
        """Keep these rows of the batch and drop the others, whose completions have ended."""
        self.slot = rows if self.slot is None else self.slot[rows]
        n, grid = len(rows), self.bias.shape[0] * self.group_size
        row_at = rows.new_zeros(grid).index_copy(0, self.slot, torch.arange(n, device=rows.device))
        head = torch.arange(self.prompt[0].both.shape[1], device=rows.device)[:, None]
        self.places, self.row_at = (head * grid + self.slot).flatten(), (head * n + row_at).flatten()
        for layer, stored in enumerate(self.completion):
            self.completion[layer] = self._with_room(stored.both[:, :, rows], len(self.ahead))

    def _with_room(self, stored: Float[Tensor, "2 k n s d"], places: int) -> KeysValues:
        """A copy with so many places, in memory for `max_new_tokens`, so that the next copy fits where this one was."""
        _, k, n, s, d = stored.shape
        memory = stored.new_empty(2, k * n * self.max_new_tokens * d)
        both = memory[:, : k * n * places * d].view(2, k, n, places, d)
        both[:, :, :, :s] = stored
        both[:, :, :, s:] = 0
        return KeysValues(both)

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

    Where the next token is stored is a tensor too, `place` (1,), and there is room for `extent` tokens at once.
    """

    def __init__(self, lengths: Int[Tensor, " b"], group_size: int, max_new_tokens: int):
        super().__init__(lengths, group_size, max_new_tokens)
        self.place = torch.zeros(1, dtype=torch.long, device=lengths.device)
        self.extent = 0

    def _take_place(self, dtype: torch.dtype) -> None:
        behind = torch.arange(self.extent, device=self.place.device) > self.place
        self.ahead = torch.zeros_like(behind, dtype=dtype).masked_fill_(behind, -torch.inf)

    def _write(self, new: Float[Tensor, "2 k n d"], stored: Float[Tensor, "2 k n s d"]) -> None:
        stored.index_copy_(3, self.place, new[:, :, :, None])


def prefix_decode_attention(
    module: Any,  # the attention layer, which knows its layer_idx
    query: Float[Tensor, "n h 1 d"],
    key: Float[Tensor, "n k 1 d"],
    _value: Tensor,
    _attention_mask: None,
    scaling: float,
    prefix_cache: PrefixCache,
    **_unused,
) -> tuple[Float[Tensor, "n 1 h d"], None]:
    """Attention of one new token of each completion over [keys of its prompt, its own keys], both from the cache."""
    n, h, _, d = query.shape
    heads = (query * scaling).view(n, key.shape[1], -1, d).transpose(0, 1).contiguous()
    return attend(heads, prefix_cache, module.layer_idx).transpose(0, 1).reshape(n, 1, h, d), None


def attend(query: Float[Tensor, "k n rep d"], cache: PrefixCache, layer_idx: int) -> Float[Tensor, "k n rep d"]:
    """What each query, scaled, makes of the values of its prompt and of its completion.

    The queries of a prompt's g completions, and of the `rep` heads that share a key head, are multiplied with the
    prompt's keys in one matrix product, so these keys are read once.
    """
    k, n, rep, d = query.shape
    b, p = cache.bias.shape
    g = cache.group_size
    prompt, own = cache.prompt[layer_idx], cache.completion[layer_idx]

    def to_prompts(x: Tensor) -> Tensor:  # (k, n, rep, *) -> (k * b, g * rep, *)
        rows = x.reshape(k * n, -1)
        return (rows if cache.row_at is None else rows.index_select(0, cache.row_at)).view(k * b, g * rep, -1)

    def to_completions(x: Tensor) -> Tensor:  # the inverse
        grid = x.view(k * b * g, -1)
        return (grid if cache.places is None else grid.index_select(0, cache.places)).view(k, n, rep, -1)

    on_prompt = torch.bmm(to_prompts(query), prompt.key)
    if cache.is_padded:
        on_prompt.view(k, b, -1, p).add_(cache.bias[:, None])
    on_own = torch.baddbmm(cache.ahead, query.view(k * n, rep, d), own.key)
    score = torch.cat([to_completions(on_prompt), on_own.view(k, n, rep, -1)], -1)
    weight = score.softmax(-1, dtype=torch.float32)
    of_prompt = to_completions(torch.bmm(to_prompts(weight[..., :p].to(query.dtype)), prompt.value))
    weight_own = weight[..., p:].to(query.dtype).reshape(k * n, rep, -1)
    return torch.baddbmm(of_prompt.reshape(k * n, rep, d), weight_own, own.value).view(k, n, rep, d)


AttentionInterface.register("prefix_decode", prefix_decode_attention)
