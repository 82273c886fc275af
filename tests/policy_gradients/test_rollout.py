"""A batch of rollouts: its parts, and its tensors at a micro-batch."""

from dataclasses import fields

import pytest
import torch

from policy_gradients.rollout import Batch, TokenTensors, loss_mask
from rlhf.groups import Group, micro_batches

GROUPS = [
    Group([1, 2], [[3], [4, 5]]),
    Group([7], [[1, 2, 3, 4], [5]]),
    Group([8, 9, 10], [[1, 2], [3, 4, 5, 6, 7]], loss_mask=[[True, True], [False] * 5]),
    Group([4], [[9], [9, 8]]),
]
LENGTHS = [1, 2, 4, 1, 2, 5, 1, 2]


def numbered() -> Batch:
    """Token t of completion i has the number 10 i + t in every tensor, and a hundred times the tensor's own."""
    number = 10.0 * torch.arange(8)[:, None] + torch.arange(5)
    batch = Batch(
        rollouts=[],
        groups=GROUPS,
        reward=torch.arange(8.0).view(4, 2),
        length=torch.tensor(LENGTHS),
        truncated=torch.tensor([i == 5 for i in range(8)]),
        logp_sampler=number,
        mask=loss_mask(GROUPS),
        logp_old=number + 100,
        logp_ref=number + 200,
    )
    batch.value, batch.adv, batch.target = number + 300, number + 400, number + 500
    batch.penalty = number + 600
    return batch


def test_the_mask_is_that_of_the_micro_batches() -> None:
    mask = loss_mask(GROUPS)
    assert mask.sum(1).tolist() == [1, 2, 4, 1, 2, 0, 1, 2]
    for rows in micro_batches(GROUPS, token_budget=9):
        assert torch.equal(mask[rows.index, : rows.mask.shape[1]], rows.mask)


def test_generated_tokens_are_those_up_to_the_length_whether_they_count_or_not() -> None:
    assert numbered().generated.sum(1).tolist() == LENGTHS
    assert [group.loss_mask for group in numbered().whole_groups] == [()] * 4


@pytest.mark.parametrize("token_budget", [1, 9, 10**6])
def test_tensors_at_a_micro_batch_are_those_of_its_completions(token_budget: int) -> None:
    """Prompts 1 and 2 of 4: completions 2 to 5. Micro-batches come longest first."""
    part = numbered().part(slice(1, 3))
    number = part.logp_sampler
    part.kept, part.held, part.right = number % 2 == 0, number > 30, number % 20 == 0
    flags = {"kept": lambda n: n % 2 == 0, "held": lambda n: n > 30, "right": lambda n: n % 20 == 0}
    offsets = {"logp_sampler": 0, "logp_old": 100, "logp_ref": 200, "value": 300, "adv": 400, "target": 500}
    assert {f.name for f in fields(TokenTensors)} == {*flags, *offsets}
    seen = []
    for rows in micro_batches(part.groups, token_budget=token_budget):
        tokens = part.tokens_of(rows)
        for i, targets in enumerate(rows.labels):
            first = int(tokens.logp_sampler[i, 0])
            completion = [tokens for group in GROUPS for tokens in group.completions][first // 10]
            assert targets[: len(completion)].tolist() == list(completion)
            for name, offset in offsets.items():
                assert int(getattr(tokens, name)[i, 0]) - first == offset, name
            for name, flag in flags.items():
                assert bool(getattr(tokens, name)[i, 0]) == flag(first), name
            seen.append(first // 10)
        assert tokens.adv.shape == rows.mask.shape
    assert sorted(seen) == [2, 3, 4, 5]


def test_a_part_has_its_own_prompts() -> None:
    part = numbered().part(slice(1, 3))
    assert part.groups == GROUPS[1:3]
    assert part.reward.tolist() == [[2, 3], [4, 5]]
    assert part.length.tolist() == LENGTHS[2:6]
    assert part.truncated.tolist() == [False, False, False, True]
    assert part.mask.sum(1).tolist() == [4, 1, 2, 0]
    assert part.penalty[:, 0].tolist() == [620, 630, 640, 650]


def test_parts_are_equal_and_come_once_a_pass() -> None:
    batch = numbered()
    rewards = [part.reward.flatten().tolist() for part in batch.parts(2, passes=2)]
    assert rewards == [[0, 1, 2, 3], [4, 5, 6, 7]] * 2
    assert [len(part.groups) for part in batch.parts(4, passes=1)] == [1] * 4


def test_what_is_not_known_yet() -> None:
    """No old and no reference log-probabilities, no advantage, and no critic."""
    batch = Batch(
        rollouts=[],
        groups=GROUPS,
        reward=torch.zeros(4, 2),
        length=torch.tensor(LENGTHS),
        truncated=torch.zeros(8, dtype=torch.bool),
        logp_sampler=torch.ones(8, 5),
        mask=loss_mask(GROUPS),
    )
    (part,) = batch.parts(1, passes=1)
    (rows,) = micro_batches(GROUPS, token_budget=10**6)
    tokens = part.tokens_of(rows)
    assert tokens.logp_old is None
    assert tokens.logp_ref is None
    assert not torch.cat([tokens.value, tokens.adv, tokens.target, batch.penalty]).any()
