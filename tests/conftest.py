"""Offline, few threads, shapes checked, and models small enough to be exact about.

The import hook makes jaxtyping and beartype check every shape in a signature while tests run; it must be in place
before the first import of what it checks.
"""

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from jaxtyping import install_import_hook
from tiny_models import ARCHITECTURES, tiny_model
from torch import nn
from transformers.utils import logging
from xdist.scheduler import LoadScopeScheduling

# Every module is checked but these: pydantic reads the annotations of configs itself; the others hold no tensors and
# have to start fast.
UNCHECKED = (
    "config",
    "report",
    "run",
    "output",
    "train",
    "compare",
    "evaluate",
    "score",
    "sample",
    "sample_pairs",
    "text",
)
PACKAGES = ("rlhf", "policy_gradients", "reward_models", "direct_alignment", "instruction_tuning")
ROOT = Path(__file__).parents[1]
CHECKED = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for package in PACKAGES
    for file in sorted((ROOT / package).rglob("*.py"))
    if not file.stem.startswith(("__", "train_")) and not {*file.relative_to(ROOT).with_suffix("").parts} & {*UNCHECKED}
]
install_import_hook(CHECKED, "shape_checks.checked")

torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other
logging.set_verbosity_error()
logging.disable_progress_bar()


def pytest_xdist_auto_num_workers() -> int:
    """Each worker imports PyTorch anew and takes about a gigabyte: more than four gain little."""
    return min(4, os.cpu_count() or 1)


# Files whose tests share a fixture that takes a minute: one worker runs all tests of such a file.
ON_ONE_WORKER = ("tests/test_several_processes.py", "tests/reward_models/test_commands.py")


class Scheduler(LoadScopeScheduling):
    """Tests one by one to whichever worker is free, but for the files of `ON_ONE_WORKER`, which come first."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if file in ON_ONE_WORKER else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduler:
    return Scheduler(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests first, so that no worker is left with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(autouse=True)
def accelerate_begins_anew() -> Generator[None]:
    """A command is a process, and accelerate keeps its first precision and device for the life of one."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="session", params=list(ARCHITECTURES))
def model(request: pytest.FixtureRequest) -> nn.Module:
    """Each architecture in turn: one norm on queries and keys, none, and norms behind the blocks."""
    return tiny_model(request.param)


@pytest.fixture(scope="session")
def qwen3() -> nn.Module:
    return tiny_model("qwen3")


@pytest.fixture(scope="session")
def small_vocabulary() -> nn.Module:
    """Few tokens, so that every outcome can be enumerated or counted."""
    return tiny_model("qwen3", vocabulary=6, layers=1)
