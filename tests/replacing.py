"""A function replaced wherever it is used, whichever modules have imported it."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

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


def replace_everywhere(patch: pytest.MonkeyPatch, function: Callable[..., Any], new: Callable[..., Any]) -> None:
    """Modules that are imported later find it too, in the module that defines it."""
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").partition(".")[0] in PACKAGES:
            for name, value in list(vars(module).items()):
                if value is function:
                    patch.setattr(module, name, new)
