"""From layers of settings to a validated config; errors name the origin of each value."""

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from rlhf.config.keys import Key, Layer, unflatten
from rlhf.config.profiles import PROFILES
from rlhf.config.schema import Section
from rlhf.config.words import accepts, as_text, listed
from rlhf.errors import UserError, nearest


def refuse_unknown(keys: dict[str, Key], layers: Iterable[Layer]) -> None:
    """Raises: UserError, listing every key that the config does not have."""
    lines = [
        f"{setting.origin}: unknown key {name}; {nearest(name, [*keys, *PROFILES])}".rstrip("; ")
        for layer in layers
        for name, setting in layer.items()
        if name not in keys
    ]
    if lines:
        raise UserError(listed(lines, "keys are unknown"), "--help explains every key")


def validate[ConfigT: Section](config_class: type[ConfigT], settings: Layer, keys: dict[str, Key]) -> ConfigT:
    """The config.

    Raises:
        UserError: listing every value that is not valid.
    """
    try:
        return config_class.model_validate(unflatten(settings))
    except ValidationError as error:
        # pydantic reports every member of a union; one line a key is enough, and the first is kept.
        lines = {_key_of(e["loc"], keys): _invalid(e, settings, keys) for e in reversed(error.errors())}
        raise UserError(listed(list(reversed(lines.values())), "settings are not valid"), _cures(error)) from error


def _cures(error: ValidationError) -> str | None:
    """What to do about it, as far as validators of ours say."""
    causes = [e.get("ctx", {}).get("error") for e in error.errors()]
    hints = [cause.hint for cause in causes if isinstance(cause, UserError) and cause.hint]
    return " ".join(dict.fromkeys(hints)) or None


def _key_of(loc: tuple[int | str, ...], keys: dict[str, Key]) -> str:
    """The key of a location of pydantic's, which may continue into a list or a dict."""
    paths = (".".join(map(str, loc[:n])) for n in range(len(loc), 0, -1))
    return next((path for path in paths if path in keys), "")


def _invalid(error: Any, settings: Layer, keys: dict[str, Key]) -> str:
    """One line: the origin of the value, the value, and what is accepted."""
    name = _key_of(error["loc"], keys)
    place = f"{settings[name].origin}: " if name in settings else ""
    # A validator of ours words its own message.
    if error["type"] in {"value_error", "assertion_error"}:
        text = str(error["ctx"]["error"])
        return f"{place}{name}: {text}" if name else text
    if error["type"] == "missing":
        return f"{name} is not set; accepted: {accepts(keys[name].field)}"
    path = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":  # of a group inside a mapping: `refuse_unknown` has seen the others
        return f"{place}unknown key {path}"
    found = error["input"]
    # The path of a union ends in the name of one of its members.
    whole = path == name or (name in settings and found is settings[name].value)
    if whole and error["type"] not in {"bool_for_number", "too_large", "no_text"}:
        return f"{place}{name} is {as_text(found)}; accepted: {accepts(keys[name].field)}"
    return f"{place}{path} is {as_text(found)}; accepted: {error['msg'].removeprefix('Input should be ')}"
