"""Whole questions are kept apart, always the same ones."""

import pytest

from rlhf.data.splits import split_by_question
from rlhf.errors import UserError


def test_split_by_question():
    """Whole questions, the same ones in any order and for any number of the others; two names, two choices."""
    items = [(f"q{i % 40}", i) for i in range(120)]
    train, held = split_by_question(items, lambda item: item[0], held_out=20)
    assert len(held) == 18  # questions of three items each
    assert not {q for q, _ in train} & {q for q, _ in held}
    assert sorted(train + held) == sorted(items)
    _, again = split_by_question(items[::-1], lambda item: item[0], held_out=20)
    assert {q for q, _ in again} == {q for q, _ in held}
    _, other = split_by_question(items, lambda item: item[0], held_out=20, name="validation")
    assert {q for q, _ in other} != {q for q, _ in held}
    with pytest.raises(UserError, match="too few"):
        split_by_question(items[:1], lambda item: item[0], held_out=20)


def test_questions_that_differ_in_white_space_are_one():
    items = [f"what{space}is {i}?" for i in range(20) for space in (" ", "  ", "\n")]
    train, held = split_by_question(items, lambda item: item, held_out=6)
    assert len(held) == 6
    assert not {" ".join(item.split()) for item in train} & {" ".join(item.split()) for item in held}
    assert sorted(train + held) == sorted(items)


def test_a_fifth_of_all_is_the_most_that_is_kept_apart():
    """10 questions of one item: 2 of 10 at most. A question of more items than there is room for is passed over."""
    items = [f"q{i}" for i in range(10)]
    train, held = split_by_question(items, lambda item: item, held_out=9)
    assert (len(train), len(held)) == (8, 2)
    assert train == [item for item in items if item not in held], "the others stay in their order"
    assert split_by_question(items, lambda item: item, held_out=1)[1] == held[:1], "fewer are the first of more"
    crowded = [*items, *[held[0]] * 5]  # 3 of 15 at most, and this question has six
    others, kept = split_by_question(crowded, lambda item: item, held_out=9)
    assert held[0] not in kept
    assert len(kept) == 3
    assert sorted(others + kept) == sorted(crowded)


def test_which_questions_are_kept_apart_never_changes():
    """Numbers that were published are of this choice."""
    items = [f"question {i}" for i in range(20)]
    kept = split_by_question(items, lambda item: item, held_out=4)[1]
    assert sorted(kept) == ["question 11", "question 15", "question 16", "question 9"]
    spaced = [item.replace(" ", space) for item in items for space in (" ", "  ")]
    (_, forward), (_, backward) = (split_by_question(way, lambda it: it, held_out=8) for way in (spaced, spaced[::-1]))
    assert sorted(forward) == sorted(backward)


@pytest.mark.parametrize(
    ("count", "said"), [(1, "1 question is too few"), (2, "2 questions are too few to keep .* a fifth of 2")]
)
def test_too_few_questions_are_counted(count: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        split_by_question([f"q{i}" for i in range(count)], lambda item: item, held_out=5)
