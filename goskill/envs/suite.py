"""Environment suites: what a family of tasks offers, and the registry that finds one by name."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box

from goskill.errors import InputError, closest

if TYPE_CHECKING:
    from goskill.envs.pool import EnvironmentPool

ENTRY_POINTS = "goskill.suites"
"""The group of entry points under which a package lists its suites, ``name = "module:attribute"``."""

Env = gymnasium.Env[Any, Any]


class Expert(Protocol):
    """A scripted policy of one task, for one environment at a time."""

    def __call__(self, observation: npt.NDArray[Any], /) -> npt.NDArray[np.float32]:
        """The action [action_dim] for an observation [observation_dim], within the action space."""


@dataclass(frozen=True)
class CollectedEpisode:
    """One whole episode of T steps.

    ``observations`` float32 [T + 1, observation_dim] (the final one included), ``actions`` float32
    [T, action_dim], ``rewards`` float32 [T]; ``terminated`` and ``truncated`` bool [T]; ``success`` bool [T], None
    where nothing reports it.
    """

    observations: npt.NDArray[np.float32]
    actions: npt.NDArray[np.float32]
    rewards: npt.NDArray[np.float32]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    success: npt.NDArray[np.bool_] | None


Collector = Callable[[str, int, int, int], CollectedEpisode]
"""``(task, episode, episodes, seed)`` -> episode number ``episode`` of the task's ``episodes``.

The answer is a pure function of the arguments; what a collector keeps from one call to the next only saves time.
"""


class TaskBatch(Protocol):
    """Environments of one process, stepped together: the faster way that a suite may offer to the pool.

    ``rows`` int64 [R] name environments by their place among the ``tasks`` of :meth:`Suite.make_batch`; results are in
    that order. Episodes are reset by the pool only.
    """

    def reset(self, rows: npt.NDArray[np.int64], seeds: Sequence[int | None]) -> npt.NDArray[Any]:
        """Begin episodes; None goes on with an environment's own random stream. Observations [R, observation_dim]."""

    def step(
        self, rows: npt.NDArray[np.int64], actions: npt.NDArray[Any]
    ) -> tuple[
        npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], Mapping[str, npt.NDArray[Any]]
    ]:
        """Observations [R, observation_dim], rewards [R], terminated [R], truncated [R], and infos, [R] by key."""

    def close(self) -> None: ...


class Suite(ABC):
    """A family of tasks with one observation space, action space and horizon.

    A suite needs the five attributes below and :meth:`make`. The rest has defaults: overriding it makes a suite
    faster or tells more about it. Suites are pickled into worker processes, so environments are made in ``make``,
    never kept.
    """

    name: str
    tasks: tuple[str, ...]
    observation_dim: int
    action_dim: int
    max_steps: int
    """Steps after which an episode ends, whether or not the environment truncates it."""

    groups: Mapping[str, tuple[str, ...]] = {}
    """Named parts of ``tasks``, such as goals to train and goals to test on."""
    success_keys: tuple[str, ...] = ("success", "is_success")
    """Info keys that report success, the first that is there; a suite without any reports none."""
    packages: tuple[str, ...] = ("gymnasium",)
    """Distributions on whose versions the numbers depend, for provenance and results."""
    reward_version: str | None = None
    """Which of several reward functions pays, where a suite has had more than one."""
    prefer_workers: bool = True
    """False where an environment steps faster than a worker process answers."""

    @abstractmethod
    def make(self, task: str, seed: int | None = None, *, render_mode: str | None = None) -> Env:
        """One environment of a task. ``reset(seed=...)`` has to decide all of its randomness.

        Observations [observation_dim] and actions [action_dim] are in Box spaces. Suites may take further keywords.
        """

    @property
    def observation_space(self) -> Box:
        """The space of one observation, with bounds that hold for every task."""
        return Box(-np.inf, np.inf, (self.observation_dim,), np.float32)

    @property
    def action_space(self) -> Box:
        """The space of one action, the same in every task."""
        return Box(-1.0, 1.0, (self.action_dim,), np.float32)

    @property
    def info_keys(self) -> tuple[str, ...] | None:
        """Keys of number-valued infos that every step reports, which travel in shared memory; None: unknown.

        Infos of other keys are dropped where keys are given.
        """
        return None

    def task_name(self, task: str) -> str:
        """The canonical name of a task. Raises InputError, with the nearest name, for one that the suite lacks."""
        if task not in self.tasks:
            raise InputError(
                f"task: expected a task of suite {self.name!r}, got {task!r}; {closest(str(task), self.tasks)}"
            )
        return task

    def make_batch(self, tasks: Sequence[str], **options: Any) -> TaskBatch | None:
        """Environments of ``tasks``, in this order, that step together; None: `make` serves. Seeds come with resets."""
        return None

    def make_vec(self, tasks: Sequence[str], num_envs: int | None = None, **options: Any) -> EnvironmentPool:
        """A vector environment; ``options`` are those of :class:`goskill.envs.EnvironmentPool`."""
        from goskill.envs.pool import EnvironmentPool

        return EnvironmentPool(tasks, num_envs, suite=self, **options)

    def expert(self, task: str) -> Expert | None:
        """A new scripted policy of a task; None where there is none."""
        return None

    def collector(self) -> Collector | None:
        """What ``goskill collect --policy scripted`` rolls out.

        None: the task's `expert` with exploration that decays from random to none over the episodes.
        """
        return None


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
}
"""By name: a suite, a function that makes one, or "module:attribute" that leads to either."""


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
    _check_name(name)
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
    if not isinstance(name, str):
        raise InputError(f"suite: expected a name, got {type(name).__name__}")
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


def _made(name: str, registered: Registered) -> Suite:
    found = _loaded(name, registered) if isinstance(registered, str) else registered
    try:
        suite = found if isinstance(found, Suite) else found()
    except Exception as error:
        raise InputError(f"suite {name!r}: cannot be made, {type(error).__name__}: {error}") from error
    if not isinstance(suite, Suite):
        raise InputError(f"suite {name!r}: expected a goskill.envs.Suite, got {type(suite).__name__}")
    return check_suite(suite, name)


def _loaded(name: str, target: str) -> Any:
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


def check_suite(suite: Suite, name: str | None = None) -> Suite:
    """``suite``, if its attributes are what they should be. Raises InputError that names the first that is not.

    Environments are checked where they are made, since making one may take long.
    """
    where = f"suite {name or getattr(suite, 'name', type(suite).__name__)!r}"
    missing = [
        member
        for member in ("name", "tasks", "observation_dim", "action_dim", "max_steps")
        if not hasattr(suite, member)
    ]
    if missing:
        raise InputError(f"{where}: {missing[0]} is missing")
    _check_name(suite.name)
    tasks = suite.tasks
    if isinstance(tasks, str) or not tasks or not all(isinstance(task, str) and task for task in tasks):
        raise InputError(f"{where}: expected tasks to be names, at least one, got {tasks!r}")
    twice = [task for index, task in enumerate(tasks) if task in tasks[:index]]
    if twice:
        raise InputError(f"{where}: expected each task once, got {twice[0]!r} twice")
    for member in ("observation_dim", "action_dim", "max_steps"):
        value = getattr(suite, member)
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
            raise InputError(f"{where}: expected {member} to be an integer from 1, got {value!r}")
    for member, size in (("observation_space", suite.observation_dim), ("action_space", suite.action_dim)):
        check_space(where, member, getattr(suite, member), size)
    for group, members in suite.groups.items():
        unknown = [task for task in members if task not in tasks]
        if unknown:
            raise InputError(f"{where}: group {group!r} has {unknown[0]!r}, which is none of its tasks")
    return suite


def check_space(where: str, member: str, space: Any, size: int) -> None:
    """Raises InputError unless ``space`` is a Box of shape [size]."""
    if not isinstance(space, Box) or space.shape != (size,):
        raise InputError(f"{where}: expected {member} to be a Box of shape ({size},), got {space}")


def check_fits(suite: Suite, what: str, observation_dim: int, action_dim: int) -> None:
    """Raises InputError, in one line, unless ``what`` (a store, a run) has the dimensions of a suite."""
    for member, size in (("observation_dim", observation_dim), ("action_dim", action_dim)):
        if getattr(suite, member) != size:
            raise InputError(
                f"{what}: expected {member} {getattr(suite, member)}, that of suite {suite.name!r}, got {size}"
            )


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name or any(mark in name for mark in ":,/ \n"):
        raise InputError(f"suite: expected a name without spaces, commas, slashes and colons, got {name!r}")


def packed(suite: Suite) -> bytes:
    """A suite for a worker process. Raises InputError for what no other process can import."""
    try:
        content = pickle.dumps(suite)
    except Exception as error:
        raise InputError(f"{_unpackable(suite)}: {error}") from None
    if b"__main__" in content:
        raise InputError(_unpackable(suite))
    return content


def _unpackable(suite: Suite) -> str:
    return (
        f"workers: suite {suite.name!r} cannot be sent to worker processes; define it at the top level of a module "
        "that can be imported (not in the main script), or use workers=0"
    )
