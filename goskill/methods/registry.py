"""Every method by name. Ours are imported when they are asked for, others come from entry points or an import path.

An installed package offers methods through the entry point group ``goskill.methods``: a name, and the class or a
module that registers it. A class that is not installed is named by its path, ``my_module:MyMethod``.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from importlib import metadata
from types import MappingProxyType
from typing import Any, TypeVar

from goskill.errors import InputError, closest
from goskill.methods.method import NOTHING, Method
from goskill.settings import from_mapping

__all__ = ["Entry", "built_in_names", "find", "method_names", "register"]

GROUP = "goskill.methods"
M = TypeVar("M", bound=type[Method])

# Where our own are defined.
_BUILT_IN: Mapping[str, str] = MappingProxyType(
    {
        "go_skill": "goskill.methods.go_skill",
        "mh_go_skill": "goskill.methods.go_skill",
        "prompt_dt": "goskill.methods.prompt_dt",
        "mh_prompt_dt": "goskill.methods.prompt_dt",
        "mtdt": "goskill.methods.prompt_dt",
        "mh_mtdt": "goskill.methods.prompt_dt",
        "harmodt": "goskill.methods.harmodt",
        "mtdiff": "goskill.methods.mtdiff",
        "sac": "goskill.methods.sac",
        "bc_sac": "goskill.methods.sac",
        "td3_bc": "goskill.methods.td3_bc",
        "pcgrad": "goskill.methods.td3_bc",
        "soft_modularization": "goskill.methods.td3_bc",
        "srtd": "goskill.methods.srtd",
        "srtd_id": "goskill.methods.srtd",
        "bc": "goskill.methods.bc",
        "skill_prior": "goskill.methods.skill_prior",
        "spirl": "goskill.methods.spirl",
        "extract": "goskill.methods.extract",
        "extract_state": "goskill.methods.extract",
        "extract_action": "goskill.methods.extract",
        "simpl": "goskill.methods.simpl",
        "simpl_ft": "goskill.methods.simpl",
        "pearl": "goskill.methods.pearl",
        "pearl_ft": "goskill.methods.pearl",
        "mtrl": "goskill.methods.mtrl",
        "mtrl_ft": "goskill.methods.mtrl",
    }
)
_ENTRIES: dict[str, Entry] = {}


@dataclass(frozen=True)
class Entry:
    """A method by name, and the settings that the name decides."""

    name: str
    method: type[Method]
    decided: Mapping[str, Any] = field(default_factory=lambda: NOTHING)

    @property
    def section(self) -> str:
        """The table of a preset with its settings."""
        return self.method.section or self.name

    def settings(self, values: Mapping[str, Any]) -> Any:
        """The settings dataclass from plain ``values`` and what the name decides.

        Raises InputError for an unknown setting (and says so if it is another method's), a value of the wrong
        type, and one that contradicts the name.
        """
        chosen = {**self.decided, **values}
        known = {one.name for one in fields(self.method.Settings)}
        for name in chosen:
            if name not in known:
                self._refuse_foreign(name)
        settings = from_mapping(self.method.Settings, chosen, "method")
        for name, value in self.decided.items():
            if getattr(settings, name) != value:
                raise InputError(
                    f"method.{name}: expected {value!r}, which {self.name} means, got {chosen[name]!r}"
                )
        return settings

    def ablated(self, names: Sequence[str]) -> dict[str, Any]:
        """The settings that these ablations change. Raises InputError for one that the method does not have."""
        changes: dict[str, Any] = {}
        for name in names:
            if not self.method.ablations:
                raise InputError(f"ablation {name!r}: {self.name} has none")
            if name not in self.method.ablations:
                raise InputError(f"unknown ablation {name!r}: {closest(name, self.method.ablations)}")
            changes |= self.method.ablations[name]
        return changes

    def _refuse_foreign(self, setting: str) -> None:
        for name in _BUILT_IN:
            if setting in {one.name for one in fields(find(name).method.Settings)}:
                raise InputError(f"method.{setting} is a setting of {name}, not of {self.name}")


def register(name: str, **decided: Any) -> Callable[[M], M]:
    """A decorator that makes a :class:`Method` known as ``name``, with the settings that the name decides.

    Raises InputError for a name that another method has, and for a class that breaks the interface, naming what.
    """

    def keep(method: M) -> M:
        _check(name, method, decided)
        there = _path(_ENTRIES[name].method) if name in _ENTRIES else _BUILT_IN.get(name)
        if there is not None and _path(method) != there and not method.__module__.startswith(there):
            raise InputError(f"method {name!r}: the name is taken by {there}")
        _ENTRIES[name] = Entry(name, method, MappingProxyType(decided))
        return method

    return keep


def find(method: str | type[Method]) -> Entry:
    """The method of that name or import path, or the entry of a class.

    A subclass of a registered method stands for that method. Raises InputError naming the closest name.
    """
    if isinstance(method, type) and issubclass(method, Method):
        return _entry_of_class(method)
    if not isinstance(method, str):
        raise InputError(f"method: expected a name or a subclass of goskill.methods.Method, got {method!r}")
    if method not in _ENTRIES:
        if method in _BUILT_IN:
            importlib.import_module(_BUILT_IN[method])
        elif ":" in method:
            _register_from_path(method)
        else:
            _load_entry_point(method)
    if method not in _ENTRIES:
        raise InputError(f"unknown method {method!r}: {closest(method, method_names())}")
    return _ENTRIES[method]


def built_in_names() -> list[str]:
    """The names of our own methods."""
    return list(_BUILT_IN)


def method_names() -> list[str]:
    """The names of all methods that can be found: ours, registered ones, those of installed packages."""
    offered = [point.name for point in metadata.entry_points(group=GROUP)]
    return list(dict.fromkeys((*_BUILT_IN, *_ENTRIES, *offered)))


def _entry_of_class(method: type[Method]) -> Entry:
    for ancestor in method.__mro__:
        own = [entry for entry in _ENTRIES.values() if entry.method is ancestor]
        if own:  # of several names the one that decides the least
            return replace(min(own, key=lambda entry: len(entry.decided)), method=method)
    raise InputError(f"method: {_path(method)} has no name: decorate it with goskill.methods.register")


def _load_entry_point(name: str) -> None:
    for point in metadata.entry_points(group=GROUP):
        if point.name == name:
            loaded = point.load()
            if isinstance(loaded, type) and name not in _ENTRIES:
                register(name)(loaded)


def _register_from_path(path: str) -> None:
    module_name, _, attribute = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"method {path!r}: expected MODULE:CLASS that can be imported: {error}") from None
    register(path)(found)


def _check(name: str, method: Any, decided: Mapping[str, Any]) -> None:
    if not isinstance(method, type) or not issubclass(method, Method):
        raise InputError(f"method {name!r}: expected a subclass of goskill.methods.Method, got {method!r}")
    missing = sorted(getattr(method, "__abstractmethods__", ()))
    if missing:
        raise InputError(f"method {name!r}: {_path(method)} does not implement {', '.join(missing)}")
    settings = getattr(method, "Settings", None)
    if not isinstance(settings, type) or not is_dataclass(settings):
        raise InputError(f"method {name!r}: {_path(method)}.Settings: expected a dataclass, got {settings!r}")
    known = [one.name for one in fields(settings)]
    for setting in (*decided, *method.schedule):
        if setting not in known:
            raise InputError(
                f"method {name!r}: {setting!r} is none of the settings of {_path(settings)}: {closest(setting, known)}"
            )


def _path(kind: type[Any]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
