"""Settings: typed dataclasses built from files and command lines, with errors that name the setting."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from goskill.errors import InputError, closest
from goskill.files import parse_json

Dataclass = TypeVar("Dataclass")


def from_mapping(cls: type[Dataclass], values: Mapping[str, Any], where: str) -> Dataclass:
    """An instance of the dataclass ``cls``; fields that ``values`` does not name keep their defaults.

    ``where`` prefixes the setting's name in errors, in those that ``cls`` raises as well. Integers are accepted for
    floats and lists for tuples; nothing else is converted.

    Raises:
        InputError: an unknown setting, a value of the wrong type, or one that ``cls`` refuses.
    """
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise InputError(f"unknown setting {where}.{name}: {closest(name, known)}")
        arguments[name] = _checked(value, hints[name], f"{where}.{name}")
    try:
        return cls(**arguments)
    except InputError as error:
        raise InputError(f"{where}.{error}") from None


def to_mapping(settings: Any) -> dict[str, Any]:
    """The settings of a dataclass instance as plain JSON types."""
    mapping: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings)))
    return mapping


def parse_override(text: str) -> tuple[str, Any]:
    """``section.key=value`` as (key, value). The value is read as JSON where it is JSON, else kept as text.

    Raises:
        InputError: there is no ``=`` or no key.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set expects section.key=value, got {text!r}")
    try:
        return key.strip(), parse_json(value)
    except ValueError:  # also of numbers with thousands of digits
        return key.strip(), value


def _checked(value: Any, hint: Any, name: str) -> Any:
    origin = typing.get_origin(hint)
    options = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        remaining = [option for option in options if option is not type(None)]
        return _checked(value, remaining[0], name)
    if origin is typing.Literal:
        if value not in options:
            raise InputError(f"{name}: expected one of {', '.join(map(repr, options))}, got {value!r}")
        return value
    if origin in (tuple, list, Sequence):
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{name}: expected a list, got {value!r}")
        items = [_checked(item, options[0], f"{name}[{index}]") for index, item in enumerate(value)]
        return list(items) if origin is list else tuple(items)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise InputError(f"{name}: expected {hint.__name__}, got {value!r}")
    return value
