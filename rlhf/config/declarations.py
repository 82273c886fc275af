"""What a Python file declares, read from its text: defaults and arguments that are plain values.

The files of algorithms and losses import PyTorch, and --help and errors in a config come without it. So what these
files say of their settings is read from their syntax trees; nothing in them is run.
"""

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class NotPlainError(Exception):
    """A declaration is more than names and plain values: it takes an import to know what it says."""


def parse_files(files: Iterable[Path]) -> list[ast.Module]:
    return [ast.parse(file.read_text("utf-8")) for file in files]


def functions_of(trees: Iterable[ast.Module]) -> dict[str, ast.FunctionDef]:
    """The functions at the top level of files, by name; of two with one name the first."""
    found: dict[str, ast.FunctionDef] = {}
    for tree in trees:
        for statement in tree.body:
            if isinstance(statement, ast.FunctionDef):
                found.setdefault(statement.name, statement)
    return found


def assigned(tree: ast.Module, name: str) -> ast.expr:
    """The expression that a file gives to a name.

    Raises:
        NotPlainError: it does not, or not in one plain assignment.
    """
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=found)], value=value) if found == name:
                return value
            case ast.AnnAssign(target=ast.Name(id=found), value=ast.expr() as value) if found == name:
                return value
    raise NotPlainError(name)


def keyword_defaults(function: ast.FunctionDef) -> dict[str, Any]:
    """The keyword-only parameters of a function that have a default, with it."""
    pairs = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return {parameter.arg: plain(default) for parameter, default in pairs if default is not None}


def keywords(call: ast.Call) -> dict[str, ast.expr]:
    """The keyword arguments of a call.

    Raises:
        NotPlainError: it has `**arguments`.
    """
    if any(keyword.arg is None for keyword in call.keywords):
        raise NotPlainError(ast.unparse(call))
    return {str(keyword.arg): keyword.value for keyword in call.keywords}


def plain(expression: ast.expr) -> Any:
    """The value of an expression of literals, or of `frozenset` of one.

    Raises:
        NotPlainError: it is something else.
    """
    match expression:
        case ast.Call(func=ast.Name(id="frozenset"), args=[inside], keywords=[]):
            return frozenset(plain(inside))
        case ast.Call(func=ast.Name(id="frozenset"), args=[], keywords=[]):
            return frozenset()
    try:
        return ast.literal_eval(expression)
    except ValueError as error:
        raise NotPlainError(ast.unparse(expression)) from error
