"""Dotted keys (`data.size`), their topics, and layers of settings, each value with its origin."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rlhf.config.schema import Config, Section
from rlhf.config.words import alternatives
from rlhf.errors import UserError


@dataclass(frozen=True)
class Key:
    """A key of a config: its field, the class that first declares it and, if the key is a group, the group's class."""

    field: FieldInfo
    owner: type[Section]
    section: type[Section] | None

    @property
    def is_option(self) -> bool:
        """Whether `--key` itself can be given. A group is set key by key; an optional group can also be turned off."""
        return self.section is None or NoneType in alternatives(self.field.annotation)


@dataclass(frozen=True)
class Setting:
    """A value and its origin, such as "configs/grpo.yaml:3"."""

    value: Any
    origin: str


COMMON = "Most used"  # the heading of the common keys
type Layer = dict[str, Setting]  # by dotted key


def all_keys(section: type[Section], prefix: str = "") -> dict[str, Key]:
    """All keys of a config class by dotted name, each group before its own keys."""
    keys = {}
    for name, field in section.model_fields.items():
        inner = next(
            (m for m in alternatives(field.annotation) if isinstance(m, type) and issubclass(m, Section)), None
        )
        owner = next(c for c in reversed(section.__mro__) if issubclass(c, Section) and name in c.model_fields)
        keys[prefix + name] = Key(field, owner, inner)
        if inner:
            keys |= all_keys(inner, f"{prefix}{name}.")
    return keys


def topics_of(config_class: type[Config]) -> dict[str, list[str]]:
    """The keys of a config under the headings of their topics: the common ones first, the family's own, then those that
    all families share. A key is under one heading; groups themselves (`data`) are there if they are options."""
    keys = all_keys(config_class)
    classes = config_class.__mro__
    found: dict[str, list[str]] = {COMMON: list(config_class.common)}
    heading: dict[type[Section], str] = {}  # of the topic that goes on, for each class
    for name in sorted(keys, key=lambda name: classes.index(keys[name.split(".")[0]].owner)):
        group, key = name.rpartition(".")[0], keys[name]
        if not group:
            own = key.owner.__dict__.get("topics", {})
            heading[key.owner] = own.get(name) or heading.get(key.owner) or _about(key.owner)
        title = heading[key.owner] if not group else f"{group}: {_about_group(keys[group])}"
        if key.section:
            title = f"{name}: {_about_group(key)}"
        if key.is_option and name not in config_class.common:
            found.setdefault(title, []).append(name)
    return found


def _about(section: type[Section]) -> str:
    """The first line of what a class says of itself."""
    return (section.__doc__ or section.__name__).split("\n")[0].rstrip(".")


def _about_group(key: Key) -> str:
    return key.field.description.rstrip(".") if key.field.description else _about(key.section or key.owner)


def defaults_of(section: type[Section]) -> dict[str, Any]:
    """The defaults written in the code, as a plain tree. Required fields are absent."""
    defaults = {
        n: f.get_default(call_default_factory=True) for n, f in section.model_fields.items() if not f.is_required()
    }
    return {n: v.model_dump() if isinstance(v, BaseModel) else v for n, v in defaults.items()}


def flatten(
    tree: Mapping[Any, Any], keys: dict[str, Key], origin: Callable[[str], str] = lambda _: "default", prefix: str = ""
) -> Layer:
    """A nested mapping as a layer. Only groups are flattened: a dict-valued setting is one value."""
    layer: Layer = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        group = isinstance(value, Mapping) and value and key in keys and keys[key].section
        new = flatten(value, keys, origin, f"{key}.") if group else {key: Setting(value, origin(key))}
        if twice := layer.keys() & new.keys():
            raise UserError(f"{origin(key)}: {min(twice)} is given twice")
        layer |= new
    return layer


def unflatten(settings: Layer) -> dict[str, Any]:
    """The nested mapping of a layer."""
    tree: dict[str, Any] = {}
    for key, setting in settings.items():
        *groups, name = key.split(".")
        inner = tree
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[name] = setting.value
    return tree


def overlay(settings: Layer, layer: Layer) -> None:
    """Write the values of `layer` over `settings`.

    A group set as a whole (`lora: null`) removes its keys. Setting a key inside a group that was null turns it on.
    """
    for key, setting in layer.items():
        inside = [k for k in settings if k.startswith(f"{key}.")]
        if inside and setting.value == {}:
            continue  # `lora: {}` asks for the group, and it is there
        for k in [*inside, *(k for k in settings if key.startswith(f"{k}."))]:
            del settings[k]
        settings[key] = setting
