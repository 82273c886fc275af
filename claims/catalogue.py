"""Which claims there are: every file of the folders beside this one that publishes a `CLAIM`, by its name."""

from functools import cache
from importlib import import_module
from pathlib import Path

from claims.claim import Claim

FOLDER = Path(__file__).parent
KINDS = ("computed", "policy_gradients", "direct_alignment", "reward_models", "forgetting")  # in the order of the index


@cache
def modules() -> dict[str, str]:
    """The module of each claim by its name, kind by kind."""
    files = [file for kind in KINDS for file in sorted((FOLDER / kind).glob("*.py"))]
    return {file.stem: f"claims.{file.parent.name}.{file.stem}" for file in files if "\nCLAIM = " in file.read_text()}


def names() -> list[str]:
    return list(modules())


def open_claim(name: str) -> Claim:
    return import_module(modules()[name]).CLAIM
