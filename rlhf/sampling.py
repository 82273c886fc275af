"""Prompts to completions, with the log-probabilities that they were sampled at.

Decoding is limited by memory traffic. Therefore a prompt is prefilled once for all its completions, which attend to one
copy of its keys and values (`prefix_cache.py`), and finished completions leave the batch. This works with every
transformers model whose attention goes through transformers' attention interface. Others (state-space layers, limited
windows, attention code of their own) are sampled by transformers' `generate`, which is slower.

A completion depends only on its key (say seed, step and number of the prompt): the key seeds its uniform random
numbers. It does not depend on the batch, the process or earlier samples, and no generator state has to be saved.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from rlhf.groups import Group
from rlhf.logprobs import Scorer, score
from rlhf.models.architecture import attention_window, probing, refuse_long, using_attention
from rlhf.prefix_cache import PrefixCache
from rlhf.tensors import in_fp32


@dataclass(frozen=True)
class SampledCompletions:
    """The completions of one prompt."""

    tokens: list[list[int]]  # the end token included
    logp: list[list[float]]  # under the distribution they were sampled from, nats
    truncated: list[bool]  # reached max_new_tokens without an end token


@runtime_checkable  # for beartype, in tests
class Choose(Protocol):
    """Chooses the next token of every completion in the batch, given one uniform number in [0, 1) for each.

    Called with the last hidden states (n, d), the vocabulary projection (v, d) and the uniform numbers (n,). Returns
    the tokens (n,) and their log-probabilities (n,) in nats.
    """

    def __call__(
        self, state: Float[Tensor, "n d"], head: Float[Tensor, "v d"], uniform: Float[Tensor, " n"]
    ) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]: ...


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
    choose: Choose | None = None,
) -> list[SampledCompletions]:
    """Sample `completions` continuations of each prompt.

    Args:
        model: a causal language model, not wrapped for distribution.
        prompts: token ids.
        end_tokens: sampling one of these ends a completion.
        keys: one tuple of non-negative integers for each prompt; equal keys give equal random numbers.
        temperature: 0 takes the most likely token; its log-probability is still reported at temperature 1.
        top_k, top_p: 0 and 1.0 switch them off, so that the policy that samples is the policy that is optimized.
        batch: completions decoded together. Prompts of similar length share a batch.
        choose: replaces `SoftmaxChooser(temperature, top_k, top_p)`.

    Raises:
        UserError: a prompt with max_new_tokens is longer than the model can read.
    """
    refuse_long_prompts(model, prompts, max_new_tokens)
    choose = choose or SoftmaxChooser(temperature, top_k, top_p)
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    longest = max(map(len, prompts), default=0) + max_new_tokens
    window = attention_window(model)
    if shares_prompts(model) and (window is None or longest <= window):
        decode = _decode_shared
        together = [order]
    else:
        # Only prompts of one length, since a state-space layer would read padding.
        decode = _decode_separately
        together = [list(same) for _, same in groupby(order, key=lambda i: len(prompts[i]))]
    at_once = max(1, batch // completions)
    batches = [numbers[start : start + at_once] for numbers in together for start in range(0, len(numbers), at_once)]
    results: dict[int, SampledCompletions] = {}
    was_training = model.training
    model.eval()
    for numbers in batches:
        uniform = np.stack([np.random.default_rng(keys[i]).random((completions, max_new_tokens)) for i in numbers])
        uniform = torch.from_numpy(uniform).float().flatten(0, 1)
        decoded = decode(model, [prompts[i] for i in numbers], uniform, set(end_tokens), choose)
        results.update(zip(numbers, decoded, strict=True))
    model.train(was_training)
    return [results[i] for i in range(len(prompts))]


@dataclass(frozen=True)
class SoftmaxChooser:
    """Samples from softmax(logits / temperature), cut by top-k and then top-p, renormalized."""

    temperature: float
    top_k: int
    top_p: float

    def __call__(
        self, state: Float[Tensor, "n d"], head: Float[Tensor, "v d"], uniform: Float[Tensor, " n"]
    ) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        with torch.autocast(state.device.type, enabled=False):
            logits = in_fp32(state.float(), head.T)
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
            above = p.cumsum(-1) - p  # the mass of all more likely tokens; 0 for the first, which is always kept
            dropped = (above >= self.top_p).scatter(-1, index, above >= self.top_p)
            logits = logits.masked_fill(dropped, -torch.inf)
        # Inverse transform sampling with one uniform number a token, so nothing depends on the rest of the batch.
        p = logits.softmax(-1)
        cumulative = p.cumsum(-1)
        uniform = uniform.clamp(max=1 - 2**-24)  # a double next to 1 becomes 1.0 in fp32, beyond the last token
        token = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True).squeeze(-1)
        return token, p.gather(-1, token[:, None]).squeeze(-1).log()


def refuse_long_prompts(
    model: PreTrainedModel, prompts: Iterable[Sequence[int]], max_new_tokens: int, key: str = "max_new_tokens"
) -> None:
    """Check that the model can read every prompt with `max_new_tokens` more; `key` is the name of that setting.

    Raises:
        UserError: it cannot.
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
    """Whether this model decodes correctly with a `PrefixCache`. Found out by trying, once for each model.

    Two completions of each of two prompts, ending at different times, must have the log-probabilities of padded rows.
    """
    if model not in _shares_prompts:
        try:
            with probing(model) as tokens:
                prompts = [tokens[:5], tokens[5:7]]
                uniform = torch.tensor([[0.1, 0.9, 0.3, 0.6], [0.8, 0.2, 0.7, 0.4]]).repeat(2, 1)
                choose = SoftmaxChooser(1.0, 0, 1.0)
                # With the first token of the first completion as end token, that completion leaves the batch.
                (first, _) = _decode_shared(model, prompts, uniform, set(), choose)
                sampled = _decode_shared(model, prompts, uniform, {first.tokens[0][0]}, choose)
                groups = [Group(prompt, of.tokens) for prompt, of in zip(prompts, sampled, strict=True)]
                device = next(model.parameters()).device
                plain = score(Scorer(model), groups, token_budget=10**6, device=device, shared_prefix=False)
                logp = torch.tensor([logp for of in sampled for row in of.logp for logp in row], device=device)
                _shares_prompts[model] = torch.allclose(logp, plain.logp[plain.mask], atol=1e-3, rtol=1e-3)
        except Exception:  # of any kind: other code meets a cache that it does not know
            _shares_prompts[model] = False
    return _shares_prompts[model]


def _decode_separately(
    model, prompts, uniform: Float[Tensor, "n t"], end_tokens: set[int], choose: Choose
) -> list[SampledCompletions]:
    """Decode with transformers' `generate`, which knows the cache of every architecture. All prompts have one length.

    `choose` picks every token: `generate` gets scores under which that token is the only possible one.
    """
    device = model.get_input_embeddings().weight.device
    head = model.get_output_embeddings()
    n, max_new_tokens = uniform.shape
    p = len(prompts[0])
    g = n // len(prompts)
    uniform = uniform.to(device)
    logps: list[Tensor] = []
    state: list[Tensor] = []

    # The states rather than the logits, which autocast would round to bf16.
    def remember_state(_head: nn.Module, inputs: tuple[Tensor]) -> None:
        state[:] = [inputs[0][:, -1]]

    def force_choice(_tokens: Tensor, scores: Tensor) -> Tensor:
        token, logp = choose(state[0], head.weight, uniform[:, len(logps)])
        logps.append(logp)
        return torch.full_like(scores, -torch.inf).scatter(-1, token[:, None], 0.0)

    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(end_tokens) or None,
        pad_token_id=0,  # follows an end token and is cut off
        disable_compile=True,
    )
    # The model's own generation config would fill in what is not set here: end tokens, suppressed tokens, penalties.
    before = model.generation_config
    model.generation_config = settings
    hook = head.register_forward_pre_hook(remember_state)
    try:
        rows = torch.as_tensor(prompts, device=device).repeat_interleave(g, 0)
        tokens = model.generate(
            rows,
            attention_mask=torch.ones_like(rows),
            generation_config=settings,
            logits_processor=LogitsProcessorList([force_choice]),
        )
    finally:
        hook.remove()
        model.generation_config = before
    return _until_end(tokens[:, p:], torch.stack(logps, 1), end_tokens, g)


def _until_end(
    tokens: Int[Tensor, "n t"], logp: Float[Tensor, "n t"], end_tokens: set[int], g: int
) -> list[SampledCompletions]:
    """Each completion up to its first end token."""
    ended = torch.isin(tokens, torch.tensor(sorted(end_tokens), dtype=tokens.dtype, device=tokens.device))
    length = torch.where(ended.any(1), ended.int().argmax(1) + 1, tokens.shape[1]).tolist()
    truncated = (~ended.any(1)).tolist()
    tokens = tokens.cpu()
    logp = logp.cpu()
    return [
        SampledCompletions(
            tokens=[tokens[i, : length[i]].tolist() for i in range(first, first + g)],
            logp=[logp[i, : length[i]].tolist() for i in range(first, first + g)],
            truncated=truncated[first : first + g],
        )
        for first in range(0, len(length), g)
    ]


def _decode_shared(
    model, prompts, uniform: Float[Tensor, "n t"], end_tokens: set[int], choose: Choose
) -> list[SampledCompletions]:
    """Decode with a `PrefixCache`; finished completions leave the batch."""
    device = model.get_input_embeddings().weight.device
    head = model.get_output_embeddings().weight
    b = len(prompts)
    n, max_new_tokens = uniform.shape
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
    alive = torch.arange(n, device=device)  # the completion in each row of the cache
    running = torch.ones(n, dtype=torch.bool, device=device)  # whether the completion in that row has not ended
    with using_attention(model, "prefix_decode"):
        for step in range(max_new_tokens):
            token, token_logp = choose(last, head, uniform[alive, step])
            tokens[alive, step] = token
            logp[alive, step] = token_logp
            running &= ~torch.isin(token, ends)
            left = int(running.sum())
            if left == 0 or step + 1 == max_new_tokens:
                break
            if left <= 0.9 * len(running):  # this copies the cache, so not for every single completion
                keep = running.nonzero().squeeze(-1)
                cache.keep(keep)
                alive = alive[keep]
                running = running[keep]
                token = token[keep]
            last = model.base_model(
                input_ids=token[:, None],
                position_ids=(lengths[alive // g] + step)[:, None],
                past_key_values=cache,
                use_cache=True,
                prefix_cache=cache,
            ).last_hidden_state[:, 0]
    return _until_end(tokens, logp, end_tokens, g)
