"""The registry of suites, which finds one by name."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from typing import Any, TypeVar, overload

from goskill.envs.suite import Suite, check_name, check_suite
from goskill.errors import InputError, closest

ENTRY_POINTS = "goskill.suites"
"""The group of entry points under which a package lists its suites, ``name = "module:attribute"``."""

Registered = Suite | Callable[[], Suite] | str
_Target = TypeVar("_Target", bound=Registered)

_METAWORLD = "goskill.envs.metaworld.suite"
_suites: dict[str, Registered] = {
    "mt10": f"{_METAWORLD}:MT10",
    "mt30": f"{_METAWORLD}:MT30",
    "mt50": f"{_METAWORLD}:MT50",
    "ml45-train": f"{_METAWORLD}:ML45_TRAIN",
    "ml45-test": f"{_METAWORLD}:ML45_TEST",
    "metaworld": f"{_METAWORLD}:METAWORLD",
    "kitchen": "goskill.envs.kitchen.suite:KITCHEN",
    "maze": "goskill.envs.maze.suite:MAZE",
}
"""By name: a suite, a function that makes one, or "module:attribute" that leads to either."""
_loaded: dict[str, Suite] = {}
"""Suites by "module:attribute"."""


@overload
def register_suite(name: str) -> Callable[[_Target], _Target]: ...
@overload
def register_suite(name: str, suite: _Target) -> _Target: ...
def register_suite(name: str, suite: Any = None) -> Any:
    """Make a suite known under ``name``; ``suite`` is a `Suite`, or a class or function that makes one when called.

    A string "module:attribute" is loaded at first use. Without ``suite`` it is a decorator::

        @register_suite("navigation")
        class Navigation(Suite): ...

    Raises InputError for a name that is taken and for a suite that breaks the interface.
    """
    if suite is None:
        return lambda decorated: register_suite(name, decorated)
    check_name(name)
    taken = name in _suites or any(entry.name == name for entry in entry_points(group=ENTRY_POINTS))
    if taken:
        raise InputError(f"suite: the name {name!r} is taken")
    if isinstance(suite, Suite):
        check_suite(suite, name)
    elif not callable(suite) and not isinstance(suite, str):
        raise InputError(
            f"suite {name!r}: expected a goskill.envs.Suite or what makes one, got {type(suite).__name__}"
        )
    _suites[name] = suite
    return suite


def suite_names() -> list[str]:
    """The names of all suites: built in, registered, and of installed packages' entry points."""
    return sorted({*_suites, *(entry.name for entry in entry_points(group=ENTRY_POINTS))})


def find_suite(name: str | Suite) -> Suite:
    """The suite of a name, or of ``"module:attribute"``, whose module may lie in the current directory.

    Raises InputError for a name that is not known, what cannot be loaded, and suites that break the interface.
    """
    if isinstance(name, Suite):
        return check_suite(name)
    if name in _loaded:
        return _loaded[name]
    if not isinstance(name, str):
        raise InputError(f"suite: expected a name, got {type(name).__name__}")
    if name not in _suites and name.lower() in _suites:
        name = name.lower()
    if name in _suites:
        registered = _suites[name]
    elif ":" in name:
        registered = name
    else:
        entries = list(entry_points(group=ENTRY_POINTS, name=name))
        if not entries:
            known = suite_names()
            raise InputError(
                f"suite: expected one of {', '.join(known)}, or module:attribute, got {name!r}; {closest(name, known)}"
            )
        registered = entries[0].value
    suite = _made(name, registered)
    if ":" not in name:
        _suites[name] = suite
    return suite


def loaded_from(suite: Suite) -> str | None:
    """The "module:attribute" that a suite was loaded from; None for others."""
    return next((target for target, loaded in _loaded.items() if loaded is suite), None)


def tasks_in(suite: Suite | str | None, tasks: str | Iterable[str] | None) -> tuple[Suite, list[str]]:
    """A suite and canonical names of its tasks; MetaWorld unless another suite is named or given.

    ``tasks`` are names, with commas between them in a string; or the name of a group or of the suite itself, whose
    tasks are all meant; None: all. Raises InputError for unknown names.
    """
    if suite is None:
        known = isinstance(tasks, str) and tasks.lower() in map(str.lower, suite_names())
        suite = str(tasks) if known else "metaworld"
    found = find_suite(suite)
    if tasks is None or (isinstance(tasks, str) and tasks in (suite, found.name)):
        return found, list(found.tasks)
    if isinstance(tasks, str):
        tasks = found.groups.get(tasks) or [part.strip() for part in tasks.split(",") if part.strip()]
    names = [found.task_name(task) for task in tasks]
    if not names:
        raise InputError("tasks: expected at least one task, got none")
    return found, names


def _made(name: str, registered: Registered) -> Suite:
    found = _load(name, registered) if isinstance(registered, str) else registered
    try:
        suite = found if isinstance(found, Suite) else found()
    except Exception as error:
        raise InputError(f"suite {name!r}: cannot be made, {type(error).__name__}: {error}") from error
    if not isinstance(suite, Suite):
        raise InputError(f"suite {name!r}: expected a goskill.envs.Suite, got {type(suite).__name__}")
    if isinstance(registered, str):
        _loaded[registered] = suite
    return check_suite(suite, name)


def _load(name: str, target: str) -> Any:
    module, _, attribute = target.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise InputError(
            f"suite {name!r}: {target} cannot be loaded, {type(error).__name__}: {error}"
        ) from error
    return found
