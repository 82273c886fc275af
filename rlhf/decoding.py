"""Decoding from shared prompts: a token of every completion at a time, until all have ended.

`decode_shared` runs each step as it is written. On a GPU that is slow: a step is over a thousand small kernels, and
starting them takes many times as long as the work. `decode_replayed` writes everything that changes from step to step
in tensors, so that a step is captured once as a CUDA graph and then replayed as a whole.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.models.attention import using_attention
from rlhf.models.decode_step import Decoder
from rlhf.prefix_cache import PrefixCache, PrefixCacheAtPlace

REPLAYED = 128  # steps that one graph makes; the next attends to as many places more


@dataclass(frozen=True)
class SampledCompletions:
    """The completions of one prompt."""

    tokens: list[list[int]]  # the end token included
    logp: list[list[float]]  # under the distribution they were sampled from, nats
    truncated: list[bool]  # reached max_new_tokens without an end token


@runtime_checkable  # for beartype, in tests
class Choose(Protocol):
    """Chooses the next token of every completion in the batch, given one uniform number in [0, 1) for each.

    Called with the logits (n, v), which it may overwrite, and the uniform numbers (n,). Returns the tokens (n,) and
    their log-probabilities (n,) in nats.
    """

    def __call__(
        self, logits: Float[Tensor, "n v"], uniform: Float[Tensor, " n"]
    ) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]: ...


def prefill(model: PreTrainedModel, prompts: Sequence[Sequence[int]], cache: PrefixCache) -> Float[Tensor, "b d"]:
    """Fill a cache with the keys and values of prompts. Returns the last hidden state of each prompt."""
    device = cache.bias.device
    padded = nn.utils.rnn.pad_sequence([torch.as_tensor(p) for p in prompts], batch_first=True).to(device)
    states = model.base_model(input_ids=padded, past_key_values=cache, use_cache=True).last_hidden_state
    last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
    return states[torch.arange(len(prompts), device=device), last]


def decode_shared(
    model, decoder: Decoder, prompts, uniform: Float[Tensor, "n t"], end_tokens: set[int], choose: Choose
) -> list[SampledCompletions]:
    """Decode with a `PrefixCache`; finished completions leave the batch."""
    device = model.get_input_embeddings().weight.device
    b = len(prompts)
    n, max_new_tokens = uniform.shape
    g = n // b
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)

    cache = PrefixCache(lengths, g, max_new_tokens)
    last = prefill(model, prompts, cache).repeat_interleave(g, 0)

    uniform = uniform.to(device)
    tokens = torch.zeros(n, max_new_tokens, dtype=torch.long, device=device)
    logp = torch.zeros(n, max_new_tokens, device=device)
    ends = torch.tensor(sorted(end_tokens), device=device)
    alive = torch.arange(n, device=device)  # the completion in each row of the cache
    running = torch.ones(n, dtype=torch.bool, device=device)  # whether the completion in that row has not ended
    with using_attention(model, "prefix_decode"):
        for step in range(max_new_tokens):
            token, token_logp = choose(decoder.project(last), uniform[alive, step])
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
            last = decoder.read(token, lengths[alive // g] + step, cache)
    return until_end(tokens, logp, end_tokens, g)


type Capture = Callable[[Callable[[], None]], Callable[[], object]]  # from a step to what repeats it


def capture_on_cuda(step: Callable[[], None]) -> Callable[[], object]:
    """A step as a CUDA graph: what repeats it, with the tensors that it read and wrote, without running it now."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def decode_replayed(
    model: PreTrainedModel,
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    uniform: Float[Tensor, "n t"],
    end_tokens: set[int],
    choose: Choose,
    *,
    capture: Capture = capture_on_cuda,
) -> list[SampledCompletions]:
    """`decode_shared`, each REPLAYED steps of it captured once and replayed.

    The first step of each stretch runs as it is written, which also readies the kernels; the capture runs nothing. A
    completion that has ended goes on until the stretch ends, and what it writes then is cut off.
    """
    g = len(uniform) // len(prompts)
    t = uniform.shape[1]
    decoding = _Decoding(model, decoder, prompts, uniform, end_tokens, choose)
    with using_attention(model, "prefix_decode"):
        for start in range(0, t, REPLAYED):
            decoding.keep_running()
            if not len(decoding.row):
                break
            stretch = min(REPLAYED, t - start)
            decoding.cache.extent = start + stretch
            decoding.step()
            if stretch > 1:
                repeat = capture(decoding.step)
                for _ in range(stretch - 1):
                    repeat()
    return until_end(decoding.tokens, decoding.logp, end_tokens, g)


class _Decoding:
    """The state of `decode_replayed`: tensors that a step reads and writes in place.

    Shapes: n completions, m of them still in the batch, t new tokens at most, d hidden size.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        decoder: Decoder,
        prompts: Sequence[Sequence[int]],
        uniform: Float[Tensor, "n t"],
        end_tokens: set[int],
        choose: Choose,
    ):
        self.decoder, self.choose = decoder, choose
        device = next(model.parameters()).device
        n, t = uniform.shape
        g = n // len(prompts)
        length = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self.cache = PrefixCacheAtPlace(length, g, t)
        self.last = prefill(model, prompts, self.cache).repeat_interleave(g, 0)  # (m, d)
        self.uniform = uniform.to(device)
        self.tokens = torch.zeros(n, t, dtype=torch.long, device=device)
        self.logp = torch.zeros(n, t, device=device)
        self.length = length.repeat_interleave(g)  # (n,) of the prompts
        self.row = torch.arange(n, device=device)  # (m,) the completion in each row of the batch
        self.running = torch.ones(n, dtype=torch.bool, device=device)  # (m,)
        self.ends = torch.tensor(sorted(end_tokens), device=device)

    def step(self) -> None:
        """Choose a token of each completion, and read it."""
        place, row = self.cache.place, self.row
        token, logp = self.choose(self.decoder.project(self.last), self.uniform[row, place])
        self.tokens[row, place] = token
        self.logp[row, place] = logp
        self.running &= ~torch.isin(token, self.ends)
        self.last.copy_(self.decoder.read(token, self.length[row] + place, self.cache))
        place += 1

    def keep_running(self) -> None:
        """Let completions that have ended leave the batch, once they are half of it."""
        left = int(self.running.sum())
        if left <= len(self.running) / 2:
            keep = self.running.nonzero().squeeze(-1)
            if left:
                self.cache.keep(keep)
            self.last, self.row, self.running = self.last[keep], self.row[keep], self.running[keep]


def until_end(
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
