"""Prompts to completions, with the log-probabilities they were sampled at.

Decoding is limited by memory traffic, so: a prompt is prefilled once for all its completions, its keys and values are
kept once and attended to by all of them together, new keys and values are written in place, and finished completions
leave the batch. That works with any transformers model whose attention goes through its attention interface; others
(state-space layers, limited windows, attention code of their own) are sampled by transformers' `generate`, slower.

Reproducible by construction: the uniform numbers behind a completion depend on its key (say seed, step, prompt) alone,
not on the batch, the process or what was sampled before. There is no generator state to save.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, GenerationConfig, LogitsProcessorList, PreTrainedModel

from rlhf.groups import Group
from rlhf.logprobs import Scorer, score
from rlhf.models.architecture import attention_window, probing, refuse_long, using_attention


@dataclass(frozen=True)
class Sampled:
    """The completions of one prompt."""

    tokens: list[list[int]]  # the end token included
    logp: list[list[float]]  # under the distribution they were sampled from, nats
    truncated: list[bool]  # reached max_new_tokens without an end token


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    completions: int,
    max_new_tokens: int,
    end_tokens: Sequence[int],
    keys: Sequence[Sequence[int]],
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    batch: int = 256,
) -> list[Sampled]:
    """Sample `completions` continuations of each prompt.

    Args:
        model: a causal language model, not wrapped for distribution.
        prompts: token ids.
        end_tokens: sampling one of these ends a completion.
        keys: one tuple of non-negative integers for each prompt; the same key gives the same random numbers.
        temperature: 0 takes the most likely token; its log-probability is still reported at temperature 1.
        top_k, top_p: 0 and 1.0 switch them off, so that the policy that samples is the one that is optimized.
        batch: completions decoded together. Prompts of similar length share a batch.

    Raises:
        UserError: if a prompt with max_new_tokens is longer than the model can read.
    """
    refuse_long_prompts(model, prompts, max_new_tokens)
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    longest, window = max(map(len, prompts), default=0) + max_new_tokens, attention_window(model)
    if shares_prompts(model) and (window is None or longest <= window):
        decode, alike = _decode_shared, [order]
    else:  # without padding, which state-space layers would read
        decode, alike = _decode_apart, [list(same) for _, same in groupby(order, key=lambda i: len(prompts[i]))]
    at_once = max(1, batch // completions)
    results: dict[int, Sampled] = {}
    was_training = model.training
    model.eval()
    for chosen in (part[start : start + at_once] for part in alike for start in range(0, len(part), at_once)):
        uniform = np.stack([np.random.default_rng(keys[i]).random((completions, max_new_tokens)) for i in chosen])
        decoded = decode(
            model,
            [prompts[i] for i in chosen],
            torch.from_numpy(uniform).float().flatten(0, 1),
            set(end_tokens),
            _Chooser(temperature, top_k, top_p),
        )
        results.update(zip(chosen, decoded, strict=True))
    model.train(was_training)
    return [results[i] for i in range(len(prompts))]


def refuse_long_prompts(
    model: PreTrainedModel, prompts: Iterable[Sequence[int]], max_new_tokens: int, key: str = "max_new_tokens"
) -> None:
    """See that the model can read each of the prompts with `max_new_tokens` more; `key` is the name of that setting.

    Raises:
        UserError: if it cannot.
    """
    longest = max(map(len, prompts), default=0)
    refuse_long(
        model.config,
        longest + max_new_tokens,
        f"a prompt of {longest} tokens with {key} {max_new_tokens} takes {longest + max_new_tokens} tokens",
        f"{key}, or what makes prompts long (system_prompt, task_config, max_length)",
    )


_shares_prompts: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def shares_prompts(model: PreTrainedModel) -> bool:
    """Whether this architecture decodes with a `PrefixCache`: found out by trying, once for each model.

    Siblings that part and end at different times, of two prompts, must have the log-probabilities of plain rows.
    """
    if model not in _shares_prompts:
        try:
            with probing(model) as tokens:
                prompts = [tokens[:5], tokens[5:7]]
                uniform = torch.tensor([[0.1, 0.9, 0.3, 0.6], [0.8, 0.2, 0.7, 0.4]]).repeat(2, 1)
                # Ending at what the first one starts with: then it leaves the batch.
                (first, _) = _decode_shared(model, prompts, uniform, set(), _Chooser(1.0, 0, 1.0))
                sampled = _decode_shared(model, prompts, uniform, {first.tokens[0][0]}, _Chooser(1.0, 0, 1.0))
                groups = [Group(prompt, one.tokens) for prompt, one in zip(prompts, sampled, strict=True)]
                device = next(model.parameters()).device
                plain = score(Scorer(model), groups, token_budget=10**6, device=device, shared_prefix=False)
                logp = torch.tensor([token for one in sampled for row in one.logp for token in row], device=device)
                _shares_prompts[model] = torch.allclose(logp, plain.logp[plain.mask], atol=1e-3, rtol=1e-3)
        except Exception:  # whatever another architecture's code answers to a cache that it does not know
            _shares_prompts[model] = False
    return _shares_prompts[model]


def _decode_apart(
    model, prompts, uniform: Float[Tensor, "n t"], end_tokens: set[int], choose: "_Chooser"
) -> list[Sampled]:
    """transformers' `generate`, which knows the cache of every architecture, for prompts of one length. It is told each
    token, so that the draws, and the distribution they are from, are ours."""
    device, head = model.get_input_embeddings().weight.device, model.get_output_embeddings()
    (n, max_new_tokens), p = uniform.shape, len(prompts[0])
    g, uniform = n // len(prompts), uniform.to(device)
    logps: list[Tensor] = []
    state: list[Tensor] = []

    def see(_head: nn.Module, inputs: tuple[Tensor]) -> None:  # of its logits, autocast would leave bf16
        state[:] = [inputs[0][:, -1]]

    def tell(_tokens: Tensor, scores: Tensor) -> Tensor:
        token, logp = choose(state[0], head.weight, uniform[:, len(logps)])
        logps.append(logp)
        return torch.full_like(scores, -torch.inf).scatter(-1, token[:, None], 0.0)

    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(end_tokens) or None,
        pad_token_id=0,  # behind the end, and cut off
        disable_compile=True,
    )
    # Whatever the model came with fills the gaps in what `generate` is given: end tokens, suppressed tokens, penalties.
    own, model.generation_config = model.generation_config, settings
    hook = head.register_forward_pre_hook(see)
    try:
        rows = torch.as_tensor(prompts, device=device).repeat_interleave(g, 0)
        made = model.generate(
            rows,
            attention_mask=torch.ones_like(rows),
            generation_config=settings,
            logits_processor=LogitsProcessorList([tell]),
        )
    finally:
        hook.remove()
        model.generation_config = own
    return _cut(made[:, p:], torch.stack(logps, 1), end_tokens, g)


def _cut(tokens: Int[Tensor, "n t"], logp: Float[Tensor, "n t"], end_tokens: set[int], g: int) -> list[Sampled]:
    """Each completion up to its first end token."""
    ended = torch.isin(tokens, torch.tensor(sorted(end_tokens), dtype=tokens.dtype, device=tokens.device))
    length = torch.where(ended.any(1), ended.int().argmax(1) + 1, tokens.shape[1]).tolist()
    whole, tokens, logp = (~ended.any(1)).tolist(), tokens.cpu(), logp.cpu()
    return [
        Sampled(
            tokens=[tokens[i, : length[i]].tolist() for i in range(first, first + g)],
            logp=[logp[i, : length[i]].tolist() for i in range(first, first + g)],
            truncated=whole[first : first + g],
        )
        for first in range(0, len(length), g)
    ]


def _decode_shared(
    model, prompts, uniform: Float[Tensor, "n t"], end_tokens: set[int], choose: "_Chooser"
) -> list[Sampled]:
    """With the prompts' keys and values once for all their completions, finished ones leaving the batch."""
    device = model.get_input_embeddings().weight.device
    head = model.get_output_embeddings().weight
    b, (n, max_new_tokens) = len(prompts), uniform.shape
    g = n // b
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    padded = nn.utils.rnn.pad_sequence([torch.as_tensor(p) for p in prompts], batch_first=True).to(device)

    cache = PrefixCache(lengths, g, max_new_tokens)
    states = model.base_model(input_ids=padded, past_key_values=cache, use_cache=True).last_hidden_state
    last = states[torch.arange(b, device=device), lengths - 1].repeat_interleave(g, 0)

    uniform = uniform.to(device)
    tokens = torch.zeros(n, max_new_tokens, dtype=torch.long, device=device)
    logp = torch.zeros(n, max_new_tokens, device=device)
    ends = torch.tensor(sorted(end_tokens), device=device)
    alive = torch.arange(n, device=device)  # completions not finished, in the order of the cache's rows
    running = torch.ones(n, dtype=torch.bool, device=device)  # of the cache's rows
    with using_attention(model, "prefix_decode"):
        for step in range(max_new_tokens):
            token, token_logp = choose(last, head, uniform[alive, step])
            tokens[alive, step], logp[alive, step] = token, token_logp
            running &= ~torch.isin(token, ends)
            left = int(running.sum())
            if left == 0 or step + 1 == max_new_tokens:
                break
            if left <= 0.9 * len(running):  # a copy of the cache, so not for every single one
                keep = running.nonzero().squeeze(-1)
                cache.keep(keep)
                alive, running, token = alive[keep], running[keep], token[keep]
            last = model.base_model(
                input_ids=token[:, None],
                position_ids=(lengths[alive // g] + step)[:, None],
                past_key_values=cache,
                use_cache=True,
                prefix_cache=cache,
            ).last_hidden_state[:, 0]
    return _cut(tokens, logp, end_tokens, g)


@dataclass(frozen=True)
class _Chooser:
    """The sampling distribution: softmax(logits / temperature), cut by top-k and top-p, renormalized."""

    temperature: float
    top_k: int
    top_p: float

    def __call__(
        self, state: Float[Tensor, "n d"], head: Float[Tensor, "v d"], uniform: Float[Tensor, " n"]
    ) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        with torch.autocast(state.device.type, enabled=False):
            logits = state.float() @ head.float().T
        logits /= self.temperature or 1.0
        if self.temperature == 0:
            token = logits.argmax(-1)
            return token, logits.log_softmax(-1).gather(-1, token[:, None]).squeeze(-1)
        if self.top_k:
            smallest = logits.topk(min(self.top_k, logits.shape[-1])).values[:, -1:]
            logits = logits.masked_fill(logits < smallest, -torch.inf)
        if self.top_p < 1:
            ordered, index = logits.sort(descending=True)
            p = ordered.softmax(-1)
            above = p.cumsum(-1) - p  # the mass of what is more likely: the first is always kept
            dropped = (above >= self.top_p).scatter(-1, index, above >= self.top_p)
            logits = logits.masked_fill(dropped, -torch.inf)
        # Inverse transform: one uniform number a token, so nothing depends on the rest of the batch.
        p = logits.softmax(-1)
        cumulative = p.cumsum(-1)
        uniform = uniform.clamp(max=1 - 2**-24)  # a double next to 1 is 1.0 in fp32, which no token's share contains
        token = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True).squeeze(-1)
        return token, p.gather(-1, token[:, None]).squeeze(-1).log()


class PrefixCache:
    """Keys and values: of the prompts once each, of the completions so far in place.

    Speaks as much of transformers' cache protocol as a forward pass asks for. The first forward pass (of the prompts,
    right-padded, plain causal) fills `prompt`; every later one adds one token to each completion.
    """

    def __init__(self, lengths: Int[Tensor, " b"], completions: int, max_new_tokens: int):
        self.prompt: list[tuple[Tensor, Tensor]] = []  # for each layer, (b, kv heads, p, d)
        self.own: list[tuple[Tensor, Tensor]] = []  # for each layer, (n, kv heads, max_new_tokens, d)
        self.length = 0  # tokens each completion has in `own`
        self.max_new_tokens = max_new_tokens
        self.completions = completions
        # The grid (b, g) of all completions; `slot` says where in it each row of the batch stands.
        self.slot: Tensor | None = None
        padding = torch.arange(int(lengths.max()), device=lengths.device) >= lengths[:, None]
        self.bias = torch.zeros_like(padding, dtype=torch.float32).masked_fill_(padding, -torch.inf)  # (b, p)

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_args, **_kwargs) -> tuple[Tensor, Tensor]:
        if layer_idx == len(self.prompt):  # prefill
            self.prompt.append((key, value))
            return key, value
        if layer_idx == len(self.own):  # first new token
            shape = (key.shape[0], key.shape[1], self.max_new_tokens, key.shape[3])
            self.own.append((key.new_empty(shape), value.new_empty(shape)))
        if layer_idx == 0:
            self.length += 1
        for stored, new in zip(self.own[layer_idx], (key, value), strict=True):
            stored[:, :, self.length - 1] = new[:, :, 0]
        own_key, own_value = self.own[layer_idx]
        return own_key[:, :, : self.length], own_value[:, :, : self.length]

    def keep(self, rows: Int[Tensor, " m"]) -> None:
        """Drop the completions that are not in `rows`."""
        self.slot = rows if self.slot is None else self.slot[rows]
        for layer, pair in enumerate(self.own):
            kept = []
            for stored in pair:
                fresh = stored.new_empty((len(rows), *stored.shape[1:]))
                fresh[:, :, : self.length] = stored[rows, :, : self.length]
                kept.append(fresh)
            self.own[layer] = (kept[0], kept[1])

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


def _prefix_decode_attention(
    module: Any,  # the attention layer; it knows its number
    query: Float[Tensor, "n h 1 d"],
    key: Float[Tensor, "n k s d"],
    value: Float[Tensor, "n k s d"],
    _attention_mask: None,
    scaling: float,
    prefix_cache: PrefixCache,
    **_unused,
) -> tuple[Float[Tensor, "n 1 h d"], None]:
    """One query for each completion over [keys of its prompt, its own keys].

    The queries of a prompt's g completions, and of the heads that share a key head, go against the prompt's keys in one
    matrix product, which reads these keys once.
    """
    n, h, _, d = query.shape
    k = key.shape[1]
    prompt_key, prompt_value = prefix_cache.prompt[module.layer_idx]  # (b, k, p, d)
    b, p = prefix_cache.bias.shape
    g, slot = prefix_cache.completions, prefix_cache.slot
    heads = query.view(n, k, h // k, d) * scaling  # (n, k, rep, d)

    def to_prompts(x: Tensor) -> Tensor:  # (n, k, rep, *) -> (b, k, g * rep, *)
        grid = x if slot is None else x.new_zeros(b * g, *x.shape[1:]).index_copy_(0, slot, x)
        return grid.unflatten(0, (b, g)).transpose(1, 2).flatten(2, 3)

    def to_completions(x: Tensor) -> Tensor:  # the way back
        grid = x.unflatten(2, (g, h // k)).transpose(1, 2).flatten(0, 1)
        return grid if slot is None else grid[slot]

    on_prompt = to_completions(to_prompts(heads) @ prompt_key.transpose(-1, -2) + prefix_cache.bias[:, None, None])
    on_own = heads @ key.transpose(-1, -2)
    weight = torch.cat([on_prompt, on_own], -1).softmax(-1, dtype=torch.float32).to(value.dtype)
    out = to_completions(to_prompts(weight[..., :p]) @ prompt_value) + weight[..., p:] @ value
    return out.reshape(n, 1, h, d), None


AttentionInterface.register("prefix_decode", _prefix_decode_attention)
