"""Settings: typed dataclasses built from files and command lines, with errors that name the setting."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from goskill.errors import InputError, closest
from goskill.files import parse_json

Dataclass = TypeVar("Dataclass")


def from_mapping(cls: type[Dataclass], values: Any, where: str) -> Dataclass:
    """An instance of the dataclass ``cls``; fields that ``values`` does not name keep their defaults.

    ``where`` prefixes the setting's name in errors, in those that ``cls`` raises as well. Integers are accepted for
    floats and lists for tuples, and mappings for fields that are dataclasses; nothing else is converted. A field
    called after a word of Python ends in ``_``, which its setting does not.

    Raises:
        InputError: no mapping, an unknown or missing setting, a value of the wrong type, or one that ``cls`` refuses.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: expected a table, got {values!r:.80}")
    hints = typing.get_type_hints(cls)
    fields = {field.name.rstrip("_"): field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise InputError(f"unknown setting {where}.{name}: {closest(str(name), list(fields))}")
    arguments: dict[str, Any] = {}
    for name, field in fields.items():
        if name in values:
            arguments[field.name] = _checked(values[name], hints[field.name], f"{where}.{name}")
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise InputError(f"{where}.{name}: expected one, found nothing")
    try:
        return cls(**arguments)
    except InputError as error:
        raise InputError(f"{where}.{error}") from None


def to_mapping(settings: Any) -> dict[str, Any]:
    """The settings of a dataclass instance as plain JSON types."""
    mapping: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings)))
    return mapping


POSITIVE = "a positive number"
NOT_NEGATIVE = "a number that is not negative"
PART = "a number above 0 and at most 1"
BELOW_ONE = "a number in [0, 1)"
_ALLOWED: Mapping[str, Callable[[float], bool]] = {
    POSITIVE: lambda value: value > 0,
    NOT_NEGATIVE: lambda value: value >= 0,
    PART: lambda value: 0 < value <= 1,
    BELOW_ONE: lambda value: 0 <= value < 1,
}


def check(settings: Any, expected: str, *names: str) -> None:
    """Raises InputError that names the first of some settings which is not as ``expected``, such as ``POSITIVE``."""
    for name in names:
        if not _ALLOWED[expected](getattr(settings, name)):
            refuse(settings, name, expected)


def check_distinct(settings: Any, name: str) -> None:
    """Raises InputError if a setting that lists names has one of them twice."""
    names = getattr(settings, name)
    if len(set(names)) < len(names):
        refuse(settings, name, "different names")


def refuse(settings: Any, name: str, expected: str) -> NoReturn:
    """Raises InputError that says what a setting was expected to be, and what it is."""
    raise InputError(f"{name}: expected {expected}, got {getattr(settings, name)!r}")


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
            raise InputError(f"{name}: expected one of {', '.join(map(repr, options))}, got {value!r:.80}")
        return value
    if origin in (tuple, list, Sequence):
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{name}: expected a list, got {value!r:.80}")
        items = [_checked(item, options[0], f"{name}[{index}]") for index, item in enumerate(value)]
        return tuple(items) if origin is tuple else items
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise InputError(f"{name}: expected a table, got {value!r:.80}")
        return {str(key): _checked(entry, options[1], f"{name}.{key}") for key, entry in value.items()}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_mapping(hint, value, name)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            return float(value)
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise InputError(f"{name}: expected {hint.__name__}, got {value!r:.80}")
    if hint is float and not math.isfinite(value):
        raise InputError(f"{name}: expected a finite number, got {value}")
    return value
