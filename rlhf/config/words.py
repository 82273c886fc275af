"""Types and values of settings in the words of --help and of error messages."""

import json
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAliasType, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rlhf.config.schema import Section

_KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    NoneType: "null",
    dict: "a mapping such as {name: 1}",
    list: "a list such as [a, b]",
    tuple: "a list such as [a, b]",
}

_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "min_length": "length >=", "max_length": "length <="}


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a type: (float, None) for `float | None`."""
    if isinstance(annotation, TypeAliasType):
        return alternatives(annotation.__value__)
    if get_origin(annotation) is Annotated:
        return alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(m for arg in get_args(annotation) for m in alternatives(arg))
    return (annotation,)


def accepts(field: FieldInfo) -> str:
    """The type of a setting and its bounds in words: 'a number > 0 or null'."""
    bounds = [
        f"{sign} {getattr(constraint, name)}"
        for constraint in field.metadata
        for name, sign in _BOUNDS.items()
        if hasattr(constraint, name)
    ]
    bound = f" {' and '.join(bounds)}" if bounds else ""
    return " or ".join(_kind(m) + (bound if m is not NoneType else "") for m in alternatives(field.annotation))


def _kind(member: Any) -> str:
    if get_origin(member) is Literal:
        return "one of " + ", ".join(map(str, get_args(member)))
    if isinstance(member, type) and issubclass(member, Section):
        return f"a mapping with {', '.join(member.model_fields)}"
    return _KINDS.get(get_origin(member) or member) or str(member)


def as_text(value: object) -> str:
    """A value as the user would write it: null, true, "text", {"exact": 1.0}."""
    return json.dumps(value.model_dump() if isinstance(value, BaseModel) else value, default=str, ensure_ascii=False)


def shortened(text: str) -> str:
    """At most the first 80 characters of a text that a message quotes."""
    return text if len(text) <= 80 else text[:80] + "..."


def listed(lines: list[str], what: str) -> str:
    """One problem as it is; several as a list under "3 settings are not valid:"."""
    if len(lines) == 1:
        return lines[0]
    return "\n".join([f"{len(lines)} {what}:", *(f"  - {line}" for line in lines)])
