"""Environment suites: what a family of tasks offers, and what is checked of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box

from goskill.errors import InputError, closest

if TYPE_CHECKING:
    from goskill.envs.pool import EnvironmentPool

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
    check_name(suite.name)
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


def check_name(name: Any) -> None:
    """Raises InputError for what cannot name a suite."""
    if not isinstance(name, str) or not name or any(mark in name for mark in ":,/ \n"):
        raise InputError(f"suite: expected a name without spaces, commas, slashes and colons, got {name!r}")
