"""Environment suites: what a family of tasks offers, and the registry that finds one by name."""

from __future__ import annotations

import importlib
import io
import os
import pickle
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box

from goskill.envs.pool_input import check_workers
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
    where nothing reports it. ``columns`` [T, ...] and ``episode_columns`` are what `Suite.columns` and
    `Suite.episode_columns` declare.
    """

    observations: npt.NDArray[np.float32]
    actions: npt.NDArray[np.float32]
    rewards: npt.NDArray[np.float32]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    success: npt.NDArray[np.bool_] | None
    columns: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    episode_columns: Mapping[str, Any] = field(default_factory=dict)


CollectEpisode = Callable[[str, int, int, int], CollectedEpisode]
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
    packages: tuple[str, ...] = ()
    """Distributions on whose versions the numbers depend, for provenance and results; gymnasium is named anyway."""
    scripted: str = "the suite's own, with annealed exploration"
    """What ``goskill collect --policy scripted`` rolls out, for provenance."""
    reward_version: str | None = None
    """Which of several reward functions pays, where a suite has had more than one."""
    info_keys: tuple[str, ...] | None = None
    """Keys of number-valued infos that every step reports, which then travel faster, as float64; None: not known."""
    columns: Mapping[str, npt.DTypeLike] = {}
    """What its `collector` says of every step beside what every store has, by name, as `StoreWriter` declares it."""
    episode_columns: Mapping[str, npt.DTypeLike] = {}
    """The same of every episode."""
    prefer_workers: bool = True
    """False where an environment steps faster than a worker process answers."""
    render_modes: tuple[str, ...] = ("rgb_array",)
    """What `make` takes as ``render_mode``, besides None."""
    render_fps: int = 30
    """Steps per second of a film."""

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

    def task_name(self, task: str) -> str:
        """The canonical name of a task. Raises InputError, with the nearest name, for one that the suite lacks."""
        if task not in self.tasks:
            raise InputError(
                f"task: expected a task of suite {self.name!r}, got {task!r}; {closest(str(task), self.tasks)}"
            )
        return task

    def prepare(self, options: dict[str, Any]) -> dict[str, Any]:
        """Check, once and before any process starts, what `make` will be given; returns what it is given.

        Raises InputError for wrong options, and where a package or library is missing.
        """
        return options

    def make_all(self, tasks: Sequence[str], **options: Any) -> list[Env]:
        """Environments of ``tasks`` for one thread, which may share what is costly. Seeds come with resets."""
        return [self.make(task, **options) for task in tasks]

    def make_batch(self, tasks: Sequence[str], **options: Any) -> TaskBatch | None:
        """Environments of ``tasks``, in this order, that step together; None: those of `make_all` step in turn.

        None also for ``options`` that the batch has no answer to, such as a ``render_mode``. Info keys are exactly
        `info_keys`.
        """
        return None

    def make_vec(self, tasks: Sequence[str], num_envs: int | None = None, **options: Any) -> EnvironmentPool:
        """A vector environment; ``options`` are those of :class:`goskill.envs.EnvironmentPool`."""
        from goskill.envs.pool import EnvironmentPool

        return EnvironmentPool(tasks, num_envs, suite=self, **options)

    def film(self, task: str, size: int) -> Env:
        """An environment whose ``render()`` is a picture for a film, uint8 [height, width, 3], best ``size`` wide."""
        return self.make(task, render_mode="rgb_array")

    def require_rendering(self) -> None:
        """Raises InputError, saying what is missing, where no pictures can be had."""
        if "rgb_array" not in self.render_modes:
            raise InputError(f"video: suite {self.name!r} draws no pictures (render_mode 'rgb_array')")

    def expert(self, task: str) -> Expert | None:
        """A new scripted policy of a task; None where there is none."""
        return None

    def collector(self) -> CollectEpisode | None:
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
    "kitchen": "goskill.envs.kitchen.suite:KITCHEN",
    "maze": "goskill.envs.maze.suite:MAZE",
}
"""By name: a suite, a function that makes one, or "module:attribute" that leads to either."""
_loaded: dict[str, Suite] = {}
"""By "module:attribute"."""


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


def check_env(suite: Suite, task: str, env: Env) -> None:
    """Raises InputError unless an environment of a task has its suite's spaces."""
    where = f"suite {suite.name!r}, task {task!r}"
    check_space(where, "observations", env.observation_space, suite.observation_dim)
    check_space(where, "actions", env.action_space, suite.action_dim)
    theirs: Any = env.action_space
    ours = suite.action_space
    if not (np.array_equal(theirs.low, ours.low) and np.array_equal(theirs.high, ours.high)):
        raise InputError(f"{where}: expected the suite's action space {ours}, got {theirs}")


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


def choose_workers(suite: Suite, workers: int | None) -> int:
    """How many processes step a suite's environments: ``workers``, or what is best for the suite.

    Raises InputError for a negative number, and where no other process can import the suite.
    """
    if workers is None and not suite.prefer_workers:
        return 0
    chosen = check_workers(workers)
    try:
        if chosen:
            packed(suite)
    except InputError:
        if workers is None:
            return 0
        raise
    return chosen


def packed(suite: Suite) -> bytes:
    """A suite for another process. Raises InputError for what no other process can import."""
    reason = ""
    try:
        content = pickle.dumps(suite)
        if all(_is_importable(module) for module in _Modules.of(content)):
            return content
    except Exception as error:
        reason = f": {error}"
    for target, loaded in _loaded.items():
        if loaded is suite:
            return pickle.dumps(target)
    raise InputError(
        f"workers: suite {suite.name!r} cannot be sent to worker processes; define it at the top level of a module "
        f"that can be imported, not in the main script, or use workers=0{reason}"
    )


class _Modules(pickle.Unpickler):
    """The modules that a pickle imports from."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self.found: set[str] = set()

    @classmethod
    def of(cls, content: bytes) -> set[str]:
        reader = cls(content)
        reader.load()
        return reader.found

    def find_class(self, module: str, name: str) -> Any:
        self.found.add(module)
        return super().find_class(module, name)


def _is_importable(module: str) -> bool:
    """Whether another process finds a module of this one, unlike the main script, a notebook, or one made by code."""
    return module != "__main__" and getattr(sys.modules[module], "__spec__", None) is not None


def unpacked(content: bytes) -> Suite:
    """The suite that `packed` gave, in a process of the same module search path."""
    return find_suite(pickle.loads(content))
