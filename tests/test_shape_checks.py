"""Signatures are checked while tests run: at the first calls of a function, and at some of all others."""

from dataclasses import dataclass
from importlib import import_module

import pytest
import shape_checks
import torch
from jaxtyping import Float, TypeCheckError
from shape_checks import CHECKED, FIRST, FIRST_OF_INNER, THEN_ONE_IN, checked
from torch import Tensor


@checked
def total(a: Float[Tensor, " n"], b: Float[Tensor, " n"], *, weight: float = 1) -> Float[Tensor, " n"]:
    return weight * (a + b)


@checked
@dataclass(frozen=True)
class Pair:
    a: Float[Tensor, " n"]
    b: Float[Tensor, " n"]


def test_shapes_of_arguments_results_and_fields_are_checked() -> None:
    two, three = torch.zeros(2), torch.zeros(3)
    assert total(two, two).shape == (2,)
    for wrong in (lambda: total(two, three), lambda: total(two, two, weight="1"), lambda: Pair(two, three)):
        with pytest.raises(TypeCheckError):
            wrong()

    @checked
    def shorter(a: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return a[1:]

    with pytest.raises(TypeCheckError):
        shorter(two)


def test_a_function_that_is_called_often_is_checked_now_and_then() -> None:
    two, three = torch.zeros(2), torch.ones(1)
    refused = []
    for number in range(1, FIRST + 4 * THEN_ONE_IN + 1):
        try:
            total(two, three)
        except TypeCheckError:
            refused.append(number)
    assert refused == [*range(1, FIRST + 1), *(FIRST + THEN_ONE_IN * (k + 1) for k in range(4))]


def test_calls_are_counted_anew_in_each_test() -> None:
    assert shape_checks.calls[total.__wrapped__.__code__] == 0


def test_of_a_function_that_is_made_anew_the_first_few_are_checked() -> None:
    def outer() -> None:
        @checked
        def inner(a: Float[Tensor, " 3"]) -> Tensor:
            return a

        inner(torch.zeros(2))

    for _ in range(FIRST_OF_INNER):
        with pytest.raises(TypeCheckError):
            outer()
    outer()


def test_what_the_checks_leave_is_the_function() -> None:
    assert (total.__name__, total.__module__) == ("total", __name__)


@pytest.mark.parametrize("name", ["rlhf.groups", "rlhf.prefix_cache", "policy_gradients.advantages"])
def test_modules_with_shapes_are_checked(name: str) -> None:
    assert name in CHECKED
    functions = [value for value in vars(import_module(name)).values() if getattr(value, "__module__", "") == name]
    assert any(getattr(function, "__code__", None) is CALL for function in functions)


CALL = total.__code__
