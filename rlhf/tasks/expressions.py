"""Expressions that were written by a model, read without evaluating them: no names, no calls, no code.

`eval` and sympy's parser run what they are given (`__import__('os').system(...)`) and compute what they are asked for
(`8**8**8`). Here a text becomes a syntax tree, every node of which must be one of a few known kinds, and no number on
the way may grow beyond MAX_BITS.
"""

import ast
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

MAX_LENGTH = 20_000  # characters
MAX_BITS = 4096  # of a whole number on the way
MAX_POWER = 1000  # of a variable


class NotAnExpression(ValueError):
    """A text that is no expression of the kinds known here, or too large a one."""


_OPERATIONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}

_GROWING: dict[type, Callable[[Any, Any], Any]] = {
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}


def tree_of(text: str) -> ast.expr:
    """The syntax tree of one expression.

    Raises:
        NotAnExpression: it is none, too long, or nested too deeply.
    """
    if not isinstance(text, str) or len(text) > MAX_LENGTH:
        raise NotAnExpression("no text, or too long")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Python would rather have had written
            return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NotAnExpression(str(error)) from error


def plain_value(text: str, *_namespaces: object) -> Any:
    """What `eval` gives for numbers, text, lists, tuples, dicts, and arithmetic with numbers; for nothing else.

    >>> plain_value("[[0, 1], [1, 0]]"), plain_value("(0x3a << 2) - 7*2**3")
    ([[0, 1], [1, 0]], 176)

    Raises:
        NotAnExpression: anything else.
    """
    return _shallow(_plain, tree_of(text))


def _plain(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int() | float() | complex() | str() | None):
            return _bounded(node.value)
        case ast.List(elts=items):
            return [_plain(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_plain(item) for item in items)
        case ast.Dict(keys=keys, values=values) if all(keys):
            return {_plain(k): _plain(v) for k, v in zip(keys, values, strict=True) if k is not None}
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _number(operand)
        case ast.UnaryOp(op=ast.Invert(), operand=operand):
            return ~_number(operand)
        case ast.BinOp(left=left, op=op, right=right):
            return _bounded(_operate(op, _number(left), _number(right)))
    raise NotAnExpression(f"{type(node).__name__} is not known")


def _number(node: ast.expr) -> Any:
    value = _plain(node)
    if not isinstance(value, int | float | complex):
        raise NotAnExpression(f"{type(value).__name__} where a number belongs")
    return value


def _operate(op: ast.operator, left: Any, right: Any) -> Any:
    try:
        if isinstance(op, ast.Pow | ast.LShift | ast.RShift):
            grows = right if isinstance(op, ast.LShift) else right * max(1, _bits(left))
            if not abs(grows) <= MAX_BITS:
                raise NotAnExpression("too large a number")
            return _GROWING[type(op)](left, right)
        if type(op) not in _OPERATIONS:
            raise NotAnExpression(f"{type(op).__name__} is not known")
        return _OPERATIONS[type(op)](left, right)
    except (ArithmeticError, TypeError) as error:
        raise NotAnExpression(str(error)) from error


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 1


def _bounded[T](value: T) -> T:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise NotAnExpression("too large a number")
    return value


def _shallow[T](read: Callable[[ast.expr], T], tree: ast.expr) -> T:
    try:
        return read(tree)
    except RecursionError as error:
        raise NotAnExpression("nested too deeply") from error


# ------------------------------------------------------------------------------------------------------------ symbols

_FUNCTIONS = (
    *("sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "acot", "asec", "acsc"),
    *("sinh", "cosh", "tanh", "coth", "asinh", "acosh", "atanh", "exp", "log", "ln", "sqrt", "Abs", "sign", "erf"),
)
_CONSTANTS = {"E": "E", "pi": "pi", "I": "I"}


def symbolic(text: str, local_dict: Mapping[str, Any] | None = None, *_others: object, **_more: object) -> Any:
    """What sympy's `parse_expr` gives for numbers, symbols, the four operations, powers and known functions.

    Raises:
        NotAnExpression: anything else: other names that are called, attributes, towers of powers.
    """
    import sympy

    names = dict(local_dict or {})

    def read(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=bool() | None | str() | bytes()):
                raise NotAnExpression("no number")
            case ast.Constant(value=int()):
                return sympy.Integer(_bounded(node.value))
            case ast.Constant(value=float()):
                return sympy.Float(node.value)
            case ast.Name(id=name):
                if name in names:
                    return names[name]
                return getattr(sympy, _CONSTANTS[name]) if name in _CONSTANTS else sympy.Symbol(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -read(operand)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return read(operand)
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                return _power(read(left), read(right))
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() as op, right=right):
                return _OPERATIONS[type(op)](read(left), read(right))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS and name not in names:
                return getattr(sympy, name)(*map(read, args))
        raise NotAnExpression(f"{type(node).__name__} is not known")

    return _shallow(read, tree_of(text))


def _power(base: Any, exponent: Any) -> Any:
    if exponent.is_number and not (exponent.is_Atom or exponent.is_Rational):
        raise NotAnExpression("an exponent that has to be computed")
    if exponent.is_Rational:
        size = max(abs(exponent.p), exponent.q)
        bits = max([abs(n.p).bit_length() + n.q.bit_length() for n in base.atoms() if n.is_Rational], default=1)
        if size > MAX_POWER or (base.is_number and size * bits > MAX_BITS):
            raise NotAnExpression("too large a power")
    return base**exponent
