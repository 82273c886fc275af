"""The algorithms, one file each. A new one is found by its file; nothing else lists it.

Their names are the names of the files. This module imports none of them: they import PyTorch, and `--help` and errors
in a config come without it. `policy_gradients.algorithm.load` imports the one that is asked for.
"""

from pathlib import Path
from pkgutil import iter_modules


def names() -> list[str]:
    return sorted(module.name for module in iter_modules(__path__))


def files() -> list[Path]:
    paths = [Path(folder) / f"{name}.py" for name in names() for folder in __path__]
    return [path for path in paths if path.is_file()]
