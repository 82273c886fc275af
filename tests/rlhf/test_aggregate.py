"""What a loss is divided by, and that cutting a step into pieces changes nothing."""

import pytest
import torch

from rlhf.aggregate import Totals, aggregates, fixed_length, sequence_mean, sequence_sum, token_mean
from rlhf.tensors import masked_sum

# Completions of 3 tokens and of 1, at most 10 could have been sampled. What stands behind the mask must not matter.
LOSS = [[1.0, 2.0, 3.0], [4.0, 50.0, 60.0]]
MASK = torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
TOTALS = Totals(sequences=2, tokens=4, max_new_tokens=10)


@pytest.mark.parametrize(
    ("aggregate", "value", "weight"),
    [
        (sequence_sum, 5.0, [[1 / 2, 1 / 2, 1 / 2], [1 / 2, 0, 0]]),
        (sequence_mean, 3.0, [[1 / 6, 1 / 6, 1 / 6], [1 / 2, 0, 0]]),
        (token_mean, 2.5, [[1 / 4, 1 / 4, 1 / 4], [1 / 4, 0, 0]]),
        (fixed_length, 0.5, [[1 / 20, 1 / 20, 1 / 20], [1 / 20, 0, 0]]),
    ],
)
def test_by_hand(aggregate, value: float, weight: list[list[float]]) -> None:
    """sequence_sum: (6 + 4) / 2. sequence_mean: (6/3 + 4/1) / 2. token_mean: 10 / 4. fixed_length: 10 / (2 * 10).

    The weight of a token is its gradient: in sequence_mean a token of a long completion weighs less, in the others the
    same as any; only fixed_length's is known before anything is sampled.
    """
    loss = torch.tensor(LOSS, requires_grad=True)
    result = aggregate(loss, MASK, TOTALS)
    result.backward()
    assert result.item() == pytest.approx(value)
    torch.testing.assert_close(loss.grad, torch.tensor(weight))


def test_token_mean_is_not_a_mean_of_means() -> None:
    """Micro-batches (1, 2, 3) and (4): their own means are 2 and 4, whose mean is 3; the step's token mean is 2.5."""
    loss = torch.tensor(LOSS)
    shares = [token_mean(loss[i : i + 1], MASK[i : i + 1], TOTALS).item() for i in range(2)]
    assert shares == [6 / 4, 4 / 4]


@pytest.mark.parametrize("name", aggregates)
@pytest.mark.parametrize("cut", [[8], [1] * 8, [3, 5], [6, 1, 1]])
def test_pieces_add_up_to_the_whole(name: str, cut: list[int]) -> None:
    """Each piece is padded to its own longest completion, as micro-batches are. Values and gradients are the step's."""
    generator = torch.Generator().manual_seed(0)
    length = torch.tensor([9, 9, 7, 4, 3, 2, 1, 1])
    mask = torch.arange(9) < length[:, None]
    mask[2, 3] = False  # a token in the middle that does not count
    whole = torch.randn(8, 9, generator=generator, requires_grad=True)
    totals = Totals(sequences=8, tokens=int(mask.sum()), max_new_tokens=16)
    expected = aggregates[name](whole, mask, totals)
    (gradient,) = torch.autograd.grad(expected, whole)

    pieces, value = whole.detach().clone().requires_grad_(), 0.0
    first = 0
    for size in cut:
        longest = int(length[first : first + size].max())
        part = slice(first, first + size)
        share = aggregates[name](pieces[part, :longest], mask[part, :longest], totals)
        share.backward()
        value += share.item()
        first += size
    assert value == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(pieces.grad, gradient)


def test_fixed_length_is_a_scaled_sequence_sum() -> None:
    """Dr. GRPO takes 1/|o| out: the two may differ by the constant max_new_tokens and nothing else."""
    loss = torch.tensor(LOSS)
    assert fixed_length(loss, MASK, TOTALS) * 10 == sequence_sum(loss, MASK, TOTALS)
    assert masked_sum(loss, MASK).tolist() == [6, 4]


def test_names() -> None:
    assert {name: function.__name__ for name, function in aggregates.items()} == {name: name for name in aggregates}
