"""Prompts to completions, with the log-probabilities that they were sampled at.

Decoding is limited by memory traffic. Therefore a prompt is prefilled once for all its completions, which attend to one
copy of its keys and values (`prefix_cache.py`), and finished completions leave the batch (`decoding.py`). This works
with every transformers model whose attention goes through transformers' attention interface. Others (state-space
layers, limited windows, attention code of their own) are sampled by transformers' `generate`, which is slower. On a CPU
both multiply large weights that are laid out for it beforehand (`models/packed.py`), and Llama and its kin take their
steps in one function (`models/decode_step.py`).

A completion depends only on its key (say seed, step and number of the prompt): the key seeds its uniform random
numbers. It does not depend on the batch, the process or earlier samples, and no generator state has to be saved.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from rlhf.decoding import Choose, SampledCompletions, decode_replayed, decode_shared, until_end
from rlhf.groups import Group
from rlhf.logprobs import Scorer, score
from rlhf.models.architecture import attention_window, probing, refuse_long
from rlhf.models.decode_step import Decoder, decoder, own_decoder
from rlhf.sampled_together import together_with


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
    batch: int | None = None,
    choose: Choose | None = None,
    on_token: Callable[[int], None] | None = None,
) -> list[SampledCompletions]:
    """Sample `completions` continuations of each prompt.

    Args:
        model: a causal language model, not wrapped for distribution.
        prompts: token ids.
        end_tokens: sampling one of these ends a completion.
        keys: one tuple of non-negative integers for each prompt; equal keys give equal random numbers.
        temperature: 0 takes the most likely token; its log-probability is still reported at temperature 1.
        top_k, top_p: 0 and 1.0 switch them off, so that the policy that samples is the policy that is optimized.
        batch: completions decoded together, those of prompts of similar length; None: see `prompts_together`.
        choose: replaces `SoftmaxChooser(temperature, top_k, top_p)`.
        on_token: called with each token of the only completion when it is chosen; what it raises ends the sampling.

    Raises:
        UserError: a prompt with max_new_tokens is longer than the model can read.
    """
    refuse_long_prompts(model, prompts, max_new_tokens)
    choose = choose or SoftmaxChooser(temperature, top_k, top_p)
    if on_token is not None:
        assert len(prompts) == completions == 1, "tokens are told of one completion"
        choose = TellingChooser(choose, on_token)
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    longest = max(map(len, prompts), default=0) + max_new_tokens
    window = attention_window(model)
    if shares_prompts(model) and (window is None or longest <= window):
        replayed = next(model.parameters()).is_cuda and on_token is None  # a captured step tells nobody
        decode = decode_replayed if replayed else decode_shared
        together = [order]
    else:
        # Only prompts of one length, since a state-space layer would read padding.
        decode = _decode_separately
        together = [list(same) for _, same in groupby(order, key=lambda i: len(prompts[i]))]

    def at_once(longest: int) -> int:
        if batch:
            return max(1, batch // completions)
        return together_with(model, prompt=longest, completions=completions, length=max_new_tokens)

    batches = [part for numbers in together for part in _batches(numbers, prompts, at_once)]
    results: dict[int, SampledCompletions] = {}
    was_training = model.training
    model.eval()
    with decoder(model, rows=completions * max(map(len, batches), default=0)) as decodes:
        for numbers in batches:
            uniform = np.stack([np.random.default_rng(keys[i]).random((completions, max_new_tokens)) for i in numbers])
            uniform = torch.from_numpy(uniform).float().flatten(0, 1)
            decoded = decode(model, decodes, [prompts[i] for i in numbers], uniform, set(end_tokens), choose)
            results.update(zip(numbers, decoded, strict=True))
    model.train(was_training)
    return [results[i] for i in range(len(prompts))]


def _batches(
    numbers: Sequence[int], prompts: Sequence[Sequence[int]], at_once: Callable[[int], int]
) -> Generator[Sequence[int]]:
    """Numbers of prompts, the longest first, in parts: as many `at_once` as the longest of a part leaves room for."""
    while numbers:
        size = at_once(len(prompts[numbers[0]]))
        yield numbers[:size]
        numbers = numbers[size:]


@dataclass(frozen=True)
class SoftmaxChooser:
    """Samples from softmax(logits / temperature), cut by top-k and then top-p, renormalized."""

    temperature: float
    top_k: int
    top_p: float

    def __call__(
        self, logits: Float[Tensor, "n v"], uniform: Float[Tensor, " n"]
    ) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        if self.temperature not in (0, 1):
            logits /= self.temperature
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
        p = logits.softmax(-1)
        token = draw(p, uniform)
        return token, p.gather(-1, token[:, None]).squeeze(-1).log()


BLOCK = 256  # tokens whose probabilities are added up as one


def draw(p: Float[Tensor, "n v"], uniform: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Inverse transform sampling: the token at which the running sum of probabilities passes `uniform` of their sum.

    With one uniform number a token, nothing depends on the rest of the batch. In a running sum each number waits for
    the one before, so with a large vocabulary it is taken over the sums of blocks of tokens, and then within one block.
    """
    if p.shape[-1] <= BLOCK:
        return _first_above(p, uniform)[0].squeeze(-1)
    padding = -p.shape[-1] % BLOCK
    blocks = (nn.functional.pad(p, (0, padding)) if padding else p).unflatten(-1, (-1, BLOCK))
    sums = blocks.sum(-1)
    block, above = _first_above(sums, uniform)
    within = 1 - above / sums.gather(-1, block)
    index, _ = _first_above(blocks.take_along_dim(block[:, None], 1).squeeze(1), within.squeeze(-1))
    return (block * BLOCK + index).squeeze(-1)


def _first_above(
    p: Float[Tensor, "n v"], uniform: Float[Tensor, " n"]
) -> tuple[Int[Tensor, "n 1"], Float[Tensor, "n 1"]]:
    """Where the running sum of `p` passes `uniform` of the whole sum, and by how much it is then above."""
    cumulative = p.cumsum(-1)
    uniform = uniform.clamp(0, 1 - 2**-24)  # a double next to 1 becomes 1.0 in fp32, beyond the last token
    wanted = uniform[:, None] * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, wanted, right=True)
    return index, cumulative.gather(-1, index) - wanted


@dataclass(frozen=True)
class TellingChooser:
    """Tells each token that is chosen for the first completion."""

    choose: Choose
    tell: Callable[[int], None]

    def __call__(
        self, logits: Float[Tensor, "n v"], uniform: Float[Tensor, " n"]
    ) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        token, logp = self.choose(logits, uniform)
        self.tell(int(token[0]))
        return token, logp


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
                own = own_decoder(model)
                (first, _) = decode_shared(model, own, prompts, uniform, set(), choose)
                sampled = decode_shared(model, own, prompts, uniform, {first.tokens[0][0]}, choose)
                groups = [Group(prompt, of.tokens) for prompt, of in zip(prompts, sampled, strict=True)]
                device = next(model.parameters()).device
                plain = score(Scorer(model), groups, token_budget=10**6, device=device, shared_prefix=False)
                logp = torch.tensor([logp for of in sampled for row in of.logp for logp in row], device=device)
                _shares_prompts[model] = torch.allclose(logp, plain.logp[plain.mask], atol=1e-3, rtol=1e-3)
        except Exception:  # of any kind: other code meets a cache that it does not know
            _shares_prompts[model] = False
    return _shares_prompts[model]


def _decode_separately(
    model, decoder: Decoder, prompts, uniform: Float[Tensor, "n t"], end_tokens: set[int], choose: Choose
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
        token, logp = choose(decoder.project(state[0]), uniform[:, len(logps)])
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
    return until_end(tokens[:, p:], torch.stack(logps, 1), end_tokens, g)
