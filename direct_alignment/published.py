"""The published settings of a loss, and a config with no setting left open, without importing PyTorch.

`losses.py` declares them: the keyword-only parameters of a loss are its settings, and the registry at its end says what
it needs. Both are read from the text of that file; a test compares them with what Python makes of it.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from direct_alignment.config import LOSS_KEYS, DirectAlignmentConfig
from rlhf.config.declarations import NotPlainError, assigned, functions_of, keyword_defaults, parse_files, plain
from rlhf.errors import UserError

FILE = Path(__file__).parent / "losses.py"


@dataclass(frozen=True)
class Published:
    """What the file says of a loss, but for its function."""

    settings: Mapping[str, float]
    needs: frozenset[str]
    variants: Mapping[str, "Published"]  # what it is instead where that config key is true


@cache
def published() -> dict[str, Published]:
    """What is published of every loss, by name."""
    trees = parse_files([FILE])
    functions = functions_of(trees)
    registry = assigned(trees[0], "losses")
    assert isinstance(registry, ast.Dict)
    pairs = zip(registry.keys, registry.values, strict=True)
    return {plain(name): _entry(call, functions) for name, call in pairs if name is not None}


def _entry(call: ast.expr, functions: Mapping[str, ast.FunctionDef]) -> Published:
    match call:
        case ast.Call(func=ast.Name(id="make_loss"), args=[ast.Name(id=function), _score, *needs], keywords=more):
            return Published(
                settings=keyword_defaults(functions[function]),
                needs=frozenset(map(plain, needs)),
                variants={str(it.arg): _entry(it.value, functions) for it in more if it.arg != "parting"},
            )
    raise NotPlainError(ast.unparse(call))


def fill(config: DirectAlignmentConfig) -> DirectAlignmentConfig:
    """The config with the loss's published value in place of every null.

    Raises:
        UserError: the config sets something that the loss does not have or cannot do.
    """
    losses = published()
    loss = losses[config.loss]
    accepted = {"reference", *loss.settings, *loss.variants}
    for key in LOSS_KEYS:
        if getattr(config, key) is not None and key not in accepted:
            readers = [name for name, it in losses.items() if key in it.settings or key in it.variants]
            raise UserError(f"{key}: {config.loss} does not have it", hint=f"It belongs to {', '.join(readers)}.")
    loss = next((variant for key, variant in loss.variants.items() if getattr(config, key)), loss)
    if config.reference == "none" and "reference" in loss.needs:
        free = [name for name, it in losses.items() if "reference" not in it.needs]
        raise UserError(f"reference: {config.loss} needs one", hint=f"Without a reference: {', '.join(free)}.")
    if config.sync_reference_every and "reference" not in loss.needs:
        compare = [name for name, it in losses.items() if "reference" in it.needs]
        raise UserError(
            f"sync_reference_every: {config.loss} compares with no reference", hint=f"These do: {', '.join(compare)}."
        )
    filled: dict[str, Any] = {key: value for key, value in loss.settings.items() if getattr(config, key) is None}
    return config.model_copy(update={**filled, "reference": config.reference or "initial"})
