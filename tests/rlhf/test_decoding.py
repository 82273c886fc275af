"""Decoding with everything that changes in tensors, as a CUDA graph needs it, against decoding step by step."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from rlhf import decoding, prefix_cache
from rlhf.decoding import decode_replayed, decode_shared
from rlhf.models.decode_step import own_decoder
from rlhf.sampling import SoftmaxChooser

PROMPTS = [[5, 6, 7, 8, 9, 10], [11], [12, 13, 14]]
ENDS = {1, 40, 41, 42, 43}


class Recorder:
    """Stands for the capture of a CUDA graph, on a CPU: it runs nothing when it captures, and repeats the step."""

    def __init__(self) -> None:
        self.captured = 0

    def __call__(self, step: Callable[[], None]) -> Callable[[], None]:
        self.captured += 1
        return step


def uniform(t: int) -> torch.Tensor:
    return torch.rand(len(PROMPTS) * 5, t, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("stretch", [1, 4, 5, 100])
@torch.no_grad()
def test_replayed_steps_give_the_same_completions(
    model: nn.Module, stretch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any number of steps a graph, also where completions have left the batch in between."""
    monkeypatch.setattr(decoding, "REPLAYED", stretch)
    choose, numbers = SoftmaxChooser(1.0, 0, 1.0), uniform(13)
    wanted = decode_shared(model, own_decoder(model), PROMPTS, numbers, ENDS, choose)
    found = decode_replayed(model, own_decoder(model), PROMPTS, numbers, ENDS, choose, capture=Recorder())
    for one, other in zip(wanted, found, strict=True):
        assert other.tokens == one.tokens
        assert other.truncated == one.truncated
        for ours, theirs in zip(other.logp, one.logp, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)


@torch.no_grad()
def test_places_for_tokens_are_made_in_blocks(qwen3: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was stored stays when places are added, and when completions leave: as if all had been there at once."""
    choose, numbers = SoftmaxChooser(1.0, 0, 1.0), uniform(13)
    wanted = decode_shared(qwen3, own_decoder(qwen3), PROMPTS, numbers, ENDS, choose)
    monkeypatch.setattr(prefix_cache, "BLOCK", 3)
    found = decode_shared(qwen3, own_decoder(qwen3), PROMPTS, numbers, ENDS, choose)
    assert [one.tokens for one in found] == [one.tokens for one in wanted]
    for one, other in zip(wanted, found, strict=True):
        for ours, theirs in zip(other.logp, one.logp, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)


@torch.no_grad()
def test_a_graph_is_captured_once_a_stretch_and_none_after_the_last_end(
    qwen3: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "REPLAYED", 4)
    recorder, choose = Recorder(), SoftmaxChooser(1.0, 0, 1.0)
    decode_replayed(qwen3, own_decoder(qwen3), PROMPTS, uniform(12), set(), choose, capture=recorder)
    assert recorder.captured == 3
    everything = set(range(100))
    recorder = Recorder()
    (first, *_) = decode_replayed(qwen3, own_decoder(qwen3), PROMPTS, uniform(12), everything, choose, capture=recorder)
    assert recorder.captured == 1
    assert [len(tokens) for tokens in first.tokens] == [1] * 5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@torch.no_grad()
def test_on_a_gpu_a_captured_step_is_the_step(qwen3: nn.Module) -> None:
    model, choose = qwen3.cuda(), SoftmaxChooser(1.0, 0, 1.0)
    wanted = decode_shared(model, own_decoder(model), PROMPTS, uniform(13), ENDS, choose)
    found = decode_replayed(model, own_decoder(model), PROMPTS, uniform(13), ENDS, choose)
    assert [one.tokens for one in found] == [one.tokens for one in wanted]
