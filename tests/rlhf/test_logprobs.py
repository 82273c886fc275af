"""Which attention kernel a row gets, and that it makes no difference but in speed."""

import pytest
import torch
from tiny_models import tiny_model

from rlhf.groups import Group, micro_batches
from rlhf.logprobs import Scorer, completion_states, score
from rlhf.models import attention
from rlhf.models.recomputing import checkpoint_activations

GROUPS = [Group([5, 6, 7], [[8, 9, 10, 1], [11, 1]]), Group([5, 9], [[12, 13, 1], [7, 1]])]


@pytest.mark.parametrize("shared_prefix", [True, False])
def test_both_kernels_give_the_same(monkeypatch, shared_prefix) -> None:
    model = tiny_model("qwen3")
    (rows,) = micro_batches(GROUPS, token_budget=1000, shared_prefix=shared_prefix)
    found = []
    for short in (128, 0):
        monkeypatch.setattr(attention, "SHORT", short)
        model.zero_grad()
        logp = Scorer(model)(rows).logp
        logp.sum().backward()
        found.append((logp.detach(), [p.grad.clone() for p in model.parameters()]))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)


def test_only_short_rows_without_checkpointing_get_matrix_products() -> None:
    """Checkpointed layers run again outside of the choice: forward and repetition would not be alike."""
    model = tiny_model("qwen3")

    def products_alone(length: int) -> bool:
        (rows,) = micro_batches([Group([5] * (length - 2), [[8, 1]])], token_budget=1000)
        with attention.attention_kernel(model, rows):
            return not torch.backends.cuda.flash_sdp_enabled()

    assert products_alone(attention.SHORT)
    assert not products_alone(attention.SHORT + 1)
    checkpoint_activations(model)
    assert not products_alone(attention.SHORT)
    (rows,) = micro_batches(GROUPS, token_budget=1000)
    Scorer(model)(rows).logp.sum().backward()


@pytest.mark.parametrize("token_budget", [6, 1000])
def test_batches_are_scored_in_the_order_of_the_completions(token_budget: int) -> None:
    """As wide as the longest completion, zero behind each end, by plain rows; without gradient."""
    model = tiny_model("qwen3")
    groups = [*GROUPS, Group([7], [[8], [9, 10, 11, 12, 1]])]
    found = score(Scorer(model), groups, token_budget=token_budget, device=torch.device("cpu"), temperature=0.7)
    said = [(group.prompt, completion) for group in groups for completion in group.completions]
    assert found.logp.shape == found.entropy.shape == found.mask.shape == (6, 5)
    assert not found.logp.requires_grad
    for i, (prompt, tokens) in enumerate(said):
        logits = model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1] / 0.7
        logp = logits.log_softmax(-1)
        wanted = logp.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        torch.testing.assert_close(found.logp[i, : len(tokens)], wanted, atol=1e-4, rtol=0)
        entropy = -(logp.exp() * logp).sum(-1)
        torch.testing.assert_close(found.entropy[i, : len(tokens)], entropy, atol=1e-4, rtol=0)
        assert found.mask[i].tolist() == [k < len(tokens) for k in range(5)]
        assert not found.logp[i, len(tokens) :].any()
        assert not found.entropy[i, len(tokens) :].any()


@pytest.mark.parametrize("shared_prefix", [True, False])
@pytest.mark.parametrize("token_budget", [6, 1000])
def test_states_are_those_of_plain_rows(token_budget: int, shared_prefix: bool) -> None:
    """The state before a token predicts it; zero behind the end of a completion."""
    model = tiny_model("qwen3")
    found = completion_states(
        model, GROUPS, token_budget=token_budget, device=torch.device("cpu"), shared_prefix=shared_prefix
    )
    said = [(group.prompt, completion) for group in GROUPS for completion in group.completions]
    assert found.shape[:2] == (len(said), max(len(tokens) for _, tokens in said))
    assert not found.requires_grad
    for states, (prompt, tokens) in zip(found, said, strict=True):
        plain = model.base_model(input_ids=torch.tensor([[*prompt, *tokens]])).last_hidden_state[0]
        torch.testing.assert_close(states[: len(tokens)], plain[len(prompt) - 1 : -1], atol=1e-4, rtol=1e-4)
        assert not states[len(tokens) :].any()


def test_nothing_to_score_is_an_empty_batch() -> None:
    assert completion_states(tiny_model("qwen3"), [], token_budget=10, device=torch.device("cpu")).shape[0] == 0
    found = score(Scorer(tiny_model("qwen3")), [], token_budget=10, device=torch.device("cpu"))
    assert [part.shape for part in found] == [(0, 0)] * 3


@pytest.mark.parametrize("shared_prefix", [True, False])
def test_attention_by_the_models_own_code_gives_the_same(shared_prefix: bool) -> None:
    """Eager attention adds a mask of numbers to its scores, where kernels take booleans."""
    model = tiny_model("qwen3")
    (rows,) = micro_batches(GROUPS, token_budget=1000, shared_prefix=shared_prefix)
    wanted = Scorer(model)(rows)
    model.set_attn_implementation("eager")
    try:
        found = Scorer(model)(rows)
    finally:
        model.set_attn_implementation("sdpa")
    torch.testing.assert_close(found.logp, wanted.logp, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.entropy, wanted.entropy, atol=1e-5, rtol=1e-4)
