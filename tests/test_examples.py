"""The `>>>` examples in docstrings are true: every module that has one."""

import doctest
import importlib
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "rlhf",
    "policy_gradients",
    "reward_models",
    "direct_alignment",
    "instruction_tuning",
    "rejection_sampling",
    "distillation",
    "pipeline",
    "claims",
)
MODULES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for package in PACKAGES
    for file in sorted((ROOT / package).rglob("*.py"))
    if ">>> " in file.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(name), extraglobs={"torch": torch})
    assert tried > 0
    assert failed == 0, "the differences are above"


def test_the_maths_has_examples() -> None:
    assert {"rlhf.kl", "rlhf.aggregate", "rlhf.tensors"} <= set(MODULES)
    assert {"direct_alignment.losses", "reward_models.losses"} <= set(MODULES)
