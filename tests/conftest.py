"""Offline, few threads, shapes checked (shape_checks.py), and models small enough to be exact about.

What is imported here at once is light: the process that hands the tests out to the workers needs no PyTorch.
"""

import gc
import os
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import pytest
import shape_checks
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from torch import nn

shape_checks.install()  # before the first import of what is checked


def pytest_xdist_auto_num_workers() -> int:
    """Each worker imports PyTorch anew and takes about a gigabyte: more than four gain little."""
    return min(4, os.cpu_count() or 1)


# Files whose tests share what takes long to make: one worker runs all tests of such a file.
ON_ONE_WORKER = (
    "tests/test_several_processes.py",
    "tests/reward_models/test_commands.py",
    "tests/rlhf/tasks/test_verifiers.py",
)


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


@pytest.fixture(scope="session", autouse=True)
def _fast_and_quiet() -> Generator[None]:
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    gc.freeze()  # the modules that are loaded by now are not searched for garbage
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)  # no test cuts the power
        yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def accelerate_begins_anew() -> Generator[None]:
    """A command is a process, and accelerate keeps its first precision and device for the life of one."""
    yield
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(autouse=True)
def _shapes_are_checked_anew() -> None:
    shape_checks.calls.clear()


@pytest.fixture(scope="session", params=["qwen3", "llama", "olmo2"])
def model(request: pytest.FixtureRequest) -> "nn.Module":
    """Each architecture in turn: one norm on queries and keys, none, and norms behind the blocks."""
    from tiny_models import tiny_model

    return tiny_model(request.param)


@pytest.fixture(scope="session")
def qwen3() -> "nn.Module":
    from tiny_models import tiny_model

    return tiny_model("qwen3")


@pytest.fixture(scope="session")
def small_vocabulary() -> "nn.Module":
    """Few tokens, so that every outcome can be enumerated or counted."""
    from tiny_models import tiny_model

    return tiny_model("qwen3", vocabulary=6, layers=1)
