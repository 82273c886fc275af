"""Which attention kernel a row gets, and that it makes no difference but in speed."""

import pytest
import torch
from tiny_models import tiny_model

from rlhf import logprobs as scoring
from rlhf.groups import Group, micro_batches
from rlhf.logprobs import Scorer, attention_kernel
from rlhf.models.recomputing import checkpoint_activations

GROUPS = [Group([5, 6, 7], [[8, 9, 10, 1], [11, 1]]), Group([5, 9], [[12, 13, 1], [7, 1]])]


@pytest.mark.parametrize("shared_prefix", [True, False])
def test_both_kernels_give_the_same(monkeypatch, shared_prefix) -> None:
    model = tiny_model("qwen3")
    (rows,) = micro_batches(GROUPS, token_budget=1000, shared_prefix=shared_prefix)
    found = []
    for short in (128, 0):
        monkeypatch.setattr(scoring, "SHORT", short)
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
        with attention_kernel(model, rows):
            return not torch.backends.cuda.flash_sdp_enabled()

    assert products_alone(scoring.SHORT)
    assert not products_alone(scoring.SHORT + 1)
    checkpoint_activations(model)
    assert not products_alone(scoring.SHORT)
    (rows,) = micro_batches(GROUPS, token_budget=1000)
    Scorer(model)(rows).logp.sum().backward()
