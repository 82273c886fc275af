"""reasoning-gym, imported without what no task here needs.

It imports all its tasks at once: for one of them pycosat, which has to be compiled and so is not installed by default,
and for another the cellular automata of cellpylib, which draw with matplotlib and take seconds to load it. While it is
imported, empty modules stand in for these. One of its dependencies gives syntax warnings when it is first compiled.
"""

import sys
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from types import ModuleType

from rlhf.tasks.names import HAS_PYCOSAT

DRAWING = (
    *("matplotlib", "matplotlib.pyplot", "matplotlib.animation", "matplotlib.collections"),
    *("mpl_toolkits", "mpl_toolkits.mplot3d"),
)


class StandIn(ModuleType):
    """A module in which every name is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


@contextmanager
def standing_in(names: Sequence[str]) -> Generator[None]:
    """Have `import` find empty modules of these names, for the block alone; those that are loaded already stay."""
    missing = {name: StandIn(name) for name in names if name not in sys.modules}
    for name, module in missing.items():
        package, _, last = name.rpartition(".")
        if package in missing:
            setattr(missing[package], last, module)
    sys.modules.update(missing)
    try:
        yield
    finally:
        for name in missing:
            sys.modules.pop(name, None)


with warnings.catch_warnings(), standing_in(DRAWING if HAS_PYCOSAT else ("pycosat", *DRAWING)):
    warnings.simplefilter("ignore", SyntaxWarning)
    from reasoning_gym import create_dataset
    from reasoning_gym.factory import DATASETS, ProceduralDataset, register_dataset

__all__ = ["DATASETS", "ProceduralDataset", "create_dataset", "register_dataset"]
