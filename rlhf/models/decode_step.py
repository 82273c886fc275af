"""A decode step of Llama and its kin as one function: the newest token of each completion through all layers.

    x = x + attention(norm(x))          Llama, Qwen2, Qwen3
    x = x + mlp(norm(x))                mlp(x) = down(act(gate(x)) * up(x))

    x = x + norm(attention(x))          OLMo2
    x = x + norm(mlp(x))

Qwen3 normalizes the queries and keys of each head before they are rotated, OLMo2 those of all heads together.

Transformers' modules compute the same, for rows of any length. With one token a row, their masks, options and small
operations take half as long as the matrix products. Here a layer is about 35 operations: queries, keys and values come
from one product, as gate and up do, and are rotated in one go. The residual stream, norms and rotations are fp32,
products and attention have the precision of the packed weights.

Shapes: n completions, w numbers of a hidden state, h query heads, k key heads, d numbers of a head.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LlamaModel, Olmo2Model, PreTrainedModel, Qwen2Model, Qwen3Model

from rlhf.cpu.kernels import own_fp32_kernels
from rlhf.models.packed import Project, layers_to_pack, packed, packed_projection, precision, product, projection
from rlhf.prefix_cache import PrefixCache, attend

KINDS = (LlamaModel, Qwen2Model, Qwen3Model, Olmo2Model)

# The newest tokens (n,) at their positions (n,) to last hidden states (n, w); the cache gets their keys and values.
type Read = Callable[[Int[Tensor, " n"], Int[Tensor, " n"], PrefixCache], Float[Tensor, "n w"]]


@dataclass(frozen=True)
class Decoder:
    """What decoding computes with a model."""

    read: Read
    project: Project


@contextmanager
def decoder(model: PreTrainedModel, *, rows: int) -> Generator[Decoder]:
    """The fastest way to decode with a model, for as long as its weights stay as they are.

    Args:
        rows: completions decoded together.
    """
    if _is_plain(model, rows):
        with own_fp32_kernels():
            head: Any = model.get_output_embeddings()
            yield Decoder(DecodeStep(model.base_model, precision() or torch.float32), packed_projection(head))
    else:
        with packed(model, rows=rows) as project:
            yield Decoder(own_step(model.base_model), project)


def own_decoder(model: PreTrainedModel) -> Decoder:
    """Decoding with the model's own modules, whatever they are."""
    return Decoder(own_step(model.base_model), projection(model))


def own_step(base: nn.Module) -> Read:
    """A step of any model whose attention goes through transformers' attention interface."""

    def read(token: Int[Tensor, " n"], position: Int[Tensor, " n"], cache: PrefixCache) -> Float[Tensor, "n w"]:
        states = base(
            input_ids=token[:, None],
            position_ids=position[:, None],
            past_key_values=cache,
            use_cache=True,
            prefix_cache=cache,
        ).last_hidden_state
        return states[:, 0]

    return read


def _is_plain(model: PreTrainedModel, rows: int) -> bool:
    """Whether a model is one of KINDS, in fp32, and all its layers can be packed: no adapters, nothing quantized."""
    base: Any = model.base_model
    if type(base) not in KINDS or any(weight.dtype != torch.float32 for weight in model.parameters()):
        return False
    layers = [linear for layer in base.layers for linear in (*_attention_layers(layer), *_mlp_layers(layer))]
    return {*layers, model.get_output_embeddings()} <= {*layers_to_pack(model, rows=rows)}


def _attention_layers(layer: Any) -> list[nn.Module]:
    attention = layer.self_attn
    return [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]


def _mlp_layers(layer: Any) -> list[nn.Module]:
    return [layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj]


class DecodeStep:
    """A `Read` with weights that are packed when it is made; `dtype` is that of products and attention."""

    def __init__(self, base: Any, dtype: torch.dtype):
        self.base = base
        self.layers = [_Layer(layer, dtype) for layer in base.layers]
        self.norm = _Norm(base.norm)
        attention = base.layers[0].self_attn
        k = base.config.num_key_value_heads
        h = k * attention.num_key_value_groups
        self.scale = torch.tensor([attention.scaling] * h + [1.0] * k + [0.0] * k)[:, None]  # of queries, keys, values
        self.still = torch.tensor([0.0] * (h + k) + [1.0] * k)[:, None]

    def __call__(
        self, token: Int[Tensor, " n"], position: Int[Tensor, " n"], cache: PrefixCache
    ) -> Float[Tensor, "n w"]:
        with torch.autocast("cpu", enabled=False):  # every operation has its precision here
            x = self.base.embed_tokens(token)
            rotation = self._rotation(x, position)
            with torch.inference_mode():  # starts operations faster; the model may keep what `_rotation` computes
                for layer in self.layers:
                    x = layer(x, rotation, cache)
                return self.norm(x)

    def _rotation(self, x: Float[Tensor, "n w"], position: Int[Tensor, " n"]) -> "_Rotation":
        cos, sin = self.base.rotary_emb(x[:, None], position[:, None])  # (n, 1, d)
        low, high = sin.chunk(2, -1)
        return _Rotation(cos * self.scale + self.still, torch.cat([-low, high], -1) * self.scale)


@dataclass(frozen=True)
class _Rotation:
    """Turns queries and keys to their positions, scales queries as attention asks, and leaves values as they are."""

    cos: Float[Tensor, "n heads d"]
    sin: Float[Tensor, "n heads d"]

    def __call__(self, heads: Float[Tensor, "n heads d"]) -> Float[Tensor, "n heads d"]:
        halves_swapped = heads.roll(heads.shape[-1] // 2, -1)
        return torch.addcmul(heads * self.cos, halves_swapped, self.sin)


class _Norm:
    """RMSNorm: x / sqrt(mean(x^2) + eps) * weight, where the root is sqrt(|x|^2 + size * eps) / sqrt(size)."""

    def __init__(self, norm: Any):
        self.size = len(norm.weight)
        self.weight = norm.weight.detach() * self.size**0.5
        self.least = torch.tensor(self.size * norm.variance_epsilon).sqrt()

    def __call__(self, x: Float[Tensor, "*n size"]) -> Float[Tensor, "*n size"]:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        return x * self.weight / torch.hypot(length, self.least)


def _same(x: Float[Tensor, "n w"]) -> Float[Tensor, "n w"]:
    return x


class _Layer:
    """One layer, as in the equations above; a norm that the architecture has not leaves its argument as it is."""

    def __init__(self, layer: Any, dtype: torch.dtype):
        attention, self.act = layer.self_attn, layer.mlp.act_fn
        *to_heads, out = cast(list[nn.Linear], _attention_layers(layer))
        *to_inner, down = cast(list[nn.Linear], _mlp_layers(layer))
        self.heads, self.out, self.inner, self.down = (
            product(layers, dtype) for layers in (to_heads, [out], to_inner, [down])
        )
        self.index, self.d, self.dtype = attention.layer_idx, attention.head_dim, dtype
        self.sizes = [linear.out_features for linear in to_heads]  # numbers of all queries, keys and values
        after = hasattr(layer, "post_feedforward_layernorm")
        names = ["post_attention_layernorm", "post_feedforward_layernorm"]
        norms = [_Norm(getattr(layer, name)) for name in (names if after else ["input_layernorm", names[0]])]
        self.before_attention, self.before_mlp = [_same, _same] if after else norms
        self.after_attention, self.after_mlp = norms if after else [_same, _same]
        self.head_norms = [_Norm(attention.q_norm), _Norm(attention.k_norm)] if hasattr(attention, "q_norm") else None

    def __call__(self, x: Float[Tensor, "n w"], rotation: _Rotation, cache: PrefixCache) -> Float[Tensor, "n w"]:
        x = x + self.after_attention(self.attention(self.before_attention(x), rotation, cache))
        return x + self.after_mlp(self.mlp(self.before_mlp(x)))

    def attention(self, x: Float[Tensor, "n w"], rotation: _Rotation, cache: PrefixCache) -> Float[Tensor, "n w"]:
        heads = self.heads(x).float()
        if self.head_norms:
            *queries_keys, value = heads.split(self.sizes, -1)
            pairs = zip(self.head_norms, queries_keys, strict=True)
            normed = [norm(part.unflatten(-1, (-1, norm.size))).flatten(1) for norm, part in pairs]
            heads = torch.cat([*normed, value], -1)
        n, k, d = len(x), self.sizes[1] // self.d, self.d
        heads = rotation(heads.view(n, -1, d)).to(self.dtype)
        query, new = heads.split([self.sizes[0] // d, 2 * k], 1)
        cache.store(new.view(n, 2, k, d).permute(1, 2, 0, 3), self.index)
        query = query.view(n, k, -1, d).transpose(0, 1).contiguous()
        return self.out(attend(query, cache, self.index).transpose(0, 1).reshape(n, -1))

    def mlp(self, x: Float[Tensor, "n w"]) -> Float[Tensor, "n w"]:
        gate, up = self.inner(x).chunk(2, -1)
        return self.down(self.act(gate) * up)
