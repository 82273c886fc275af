"""The settings that the algorithms declare, as fields of a config, without importing PyTorch.

A setting is a keyword-only parameter of an advantage or a surrogate: see policy_gradients/algorithm.py. The files that
declare them import PyTorch, and `--help` and errors in a config come without it. So this module reads the declarations
from the files' syntax trees: it evaluates the annotations `NAME = Annotated[...]`, which need nothing but the names in
`NAMESPACE`, and runs nothing else. A test compares them with the signatures of the imported functions.

A setting that says what becomes of a token whose probability has moved acts on nothing while none has: its annotation
ends with `OFF_POLICY`, and a config in which the policy never leaves the one that sampled refuses it.
"""

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from policy_gradients import algorithms

FOLDER = Path(__file__).parent
OFF_POLICY = "acts where pi / pi_old is not 1"
NAMESPACE = {
    "Annotated": Annotated,
    "Literal": Literal,
    "Field": Field,
    "float": float,
    "int": int,
    "bool": bool,
    "OFF_POLICY": OFF_POLICY,
}


def declaring_files() -> list[Path]:
    return [FOLDER / "advantages.py", FOLDER / "surrogates.py", *algorithms.files()]


def declared_settings(files: Iterable[Path]) -> dict[str, Any]:
    """Each setting's annotation by its name: `Annotated[type, Field(bounds, description)]`, perhaps `OFF_POLICY`."""
    trees = [ast.parse(file.read_text("utf-8")) for file in files]
    annotations = {name: annotation for tree in trees for name, annotation in _annotations(tree)}
    return {
        parameter.arg: annotations[parameter.annotation.id]
        for tree in trees
        for function in tree.body
        if isinstance(function, ast.FunctionDef)
        for parameter in function.args.kwonlyargs
        if isinstance(parameter.annotation, ast.Name) and parameter.annotation.id in annotations
    }


def as_fields(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings as optional fields for `pydantic.create_model`: null stands for the algorithm's published value."""
    fields = {}
    for name, annotation in settings.items():
        kind, field, *_ = get_args(annotation)
        fields[name] = (Annotated[kind | None, field], None)  # ty: ignore[invalid-type-form]
    return fields


def off_policy_settings(settings: dict[str, Any]) -> set[str]:
    """Those that act where pi / pi_old is not 1, and nowhere else."""
    return {name for name, annotation in settings.items() if OFF_POLICY in get_args(annotation)}


def _annotations(tree: ast.Module) -> Iterable[tuple[str, Any]]:
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Subscript(value=ast.Name(id="Annotated")) as value):
                expression = compile(ast.Expression(value), name, "eval")
                yield name, eval(expression, {"__builtins__": {}}, NAMESPACE)
