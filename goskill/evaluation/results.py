"""What an evaluation found: every episode's numbers, and what they come to per task and overall."""

from __future__ import annotations

import contextlib
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import goskill.evaluation.statistics as statistics
from goskill.errors import InputError
from goskill.evaluation.statistics import Estimate

UNKNOWN = -2
"""The success step of an episode in which nothing said whether it succeeded."""


@dataclass(frozen=True)
class Protocol:
    """How the episodes were run."""

    episodes: int  # per task
    max_steps: int  # an episode goes on this long whether it succeeds or not
    seed: int  # of objects, goals and every random choice of the policy
    batch: int  # most environments in one forward pass of the policy
    suite: str | None = None  # whose tasks they are; None: unknown, or the caller's own environments


@dataclass(frozen=True)
class TaskEpisodes:
    """One task's episodes, an array entry each."""

    seed: npt.NDArray[np.int64]  # what the environment was reset with
    returns: npt.NDArray[np.float64]  # undiscounted sum of rewards
    success_step: npt.NDArray[np.int64]  # first step (from 1) that succeeded, -1 if none did, or UNKNOWN
    success_last: npt.NDArray[np.bool_]  # success at the last step that reported it
    length: npt.NDArray[np.int64]  # steps

    @classmethod
    def empty(cls, episodes: int) -> TaskEpisodes:
        return cls(
            np.zeros(episodes, np.int64),
            np.zeros(episodes, np.float64),
            np.full(episodes, -1, np.int64),
            np.zeros(episodes, np.bool_),
            np.zeros(episodes, np.int64),
        )

    @property
    def success(self) -> npt.NDArray[np.bool_]:
        """Success at any step; meaningful where it is known."""
        return np.asarray(self.success_step > 0)

    @property
    def success_known(self) -> bool:
        """Whether every episode said if it succeeded."""
        return bool((self.success_step != UNKNOWN).all())

    def __len__(self) -> int:
        return len(self.returns)


@dataclass(frozen=True)
class Skills:
    """Which skills the policy chose, one decision every ``horizon`` steps."""

    count: int  # size of the codebook
    horizon: int
    usage: Mapping[str, Sequence[int]]  # decisions per skill over all episodes of a task, ``count`` entries
    first_episode: Mapping[str, Sequence[int]]  # the skills of each task's first episode, in order

    def __post_init__(self) -> None:
        check_counts("usage", self.usage, self.count)
        if self.horizon < 1 or any(
            not 0 <= s < self.count for row in self.first_episode.values() for s in row
        ):
            raise InputError(f"expected skills in [0, {self.count}) and a horizon of at least 1")


@dataclass(frozen=True)
class DataReturns:
    """The returns of the demonstrations that a policy learned from, to compare with."""

    mean: float
    best: float
    episodes: int

    def __post_init__(self) -> None:
        if not math.isfinite(self.mean) or not math.isfinite(self.best):
            raise InputError(f"expected finite returns, got {self.mean} and {self.best}")


@dataclass(frozen=True)
class Summary:
    """The numbers of one task, or of all tasks with equal weight. Intervals hold 95 %."""

    returns: Estimate  # mean; Student's t
    success: Estimate | None  # at any step; Wilson; None: unknown
    success_last: Estimate | None  # at the last step; Wilson; None: unknown
    length: float  # mean
    episodes: int

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, estimate in (
            ("return", self.returns),
            ("success", self.success),
            ("success_last", self.success_last),
        ):
            values["return_mean" if name == "return" else name] = None if estimate is None else estimate.value
            interval = None if estimate is None else estimate.interval
            values[f"{name}_ci95"] = None if interval is None else list(interval)
        return {**values, "length_mean": self.length, "episodes": self.episodes}


@dataclass(frozen=True)
class Results:
    """One policy's evaluation. ``save`` and ``load`` keep it in a file, ``table`` shows it to people."""

    policy: str
    protocol: Protocol
    episodes: Mapping[str, TaskEpisodes]
    skills: Skills | None = None
    data: Mapping[str, DataReturns] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        return list(self.episodes)

    def summary(self, task: str) -> Summary:
        """The numbers of one task."""
        return _summary([self.episodes[task]])

    @property
    def overall(self) -> Summary:
        """The numbers of all tasks, each weighing the same."""
        return _summary(list(self.episodes.values()))

    def with_data(self, data: Mapping[str, DataReturns]) -> Results:
        """The same results beside the returns of the data (:func:`data_returns`)."""
        return replace(self, data={task: data[task] for task in self.tasks if task in data})

    def save(self, path: str | Path) -> Path:
        """Write JSON, whole or not at all."""
        from goskill.evaluation import result_files as files

        return files.save_results(self, path)

    def save_csv(self, path: str | Path) -> Path:
        """Write one row per episode as CSV, whole or not at all."""
        from goskill.evaluation import result_files as files

        return files.save_csv(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Read what :meth:`save` wrote. Raises InputError for anything else."""
        from goskill.evaluation import result_files as files

        return files.load_results(path)


def check_counts(name: str, usage: Mapping[str, Sequence[int]], count: int) -> None:
    """InputError unless every task has ``count`` counts."""
    for task, counts in usage.items():
        if len(counts) != count or min(counts, default=0) < 0:
            raise InputError(f"{name}.{task}: expected {count} counts, got {str(counts)[:60]}")


def merge(parts: Sequence[Results], tasks: Sequence[str]) -> Results:
    """One evaluation from several of different tasks with the same policy and protocol, in the order
    ``tasks``.

    Raises InputError for parts that do not belong together or do not make up ``tasks``.
    """
    first = parts[0]
    found = [task for part in parts for task in part.tasks]
    if sorted(found) != sorted(tasks):
        raise InputError(f"parts: expected each of {', '.join(tasks)} once, got {', '.join(found)}")
    for part in parts[1:]:
        if (part.policy, part.protocol) != (first.policy, first.protocol):
            raise InputError(
                f"parts: expected {first.policy} with {first.protocol}, got {part.policy} with {part.protocol}"
            )
    episodes = {task: rows for part in parts for task, rows in part.episodes.items()}
    return replace(
        first,
        episodes={task: episodes[task] for task in tasks},
        skills=_merge_skills([part.skills for part in parts if part.skills is not None], tasks),
        data={task: returns for part in parts for task, returns in part.data.items()},
    )


def _merge_skills(parts: Sequence[Skills], tasks: Sequence[str]) -> Skills | None:
    if not parts:
        return None
    usage = {task: counts for part in parts for task, counts in part.usage.items()}
    first_episode = {task: skills for part in parts for task, skills in part.first_episode.items()}
    return replace(
        parts[0],
        usage={task: usage[task] for task in tasks},
        first_episode={task: first_episode[task] for task in tasks},
    )


def data_returns(store: Any) -> dict[str, DataReturns]:
    """The mean and best return of each task of an episode store."""
    found = {}
    for index, task in enumerate(store.tasks):
        returns = np.asarray(store.episode_return)[np.asarray(store.episode_task) == index]
        if returns.size:
            found[task] = DataReturns(float(returns.mean()), float(returns.max()), int(returns.size))
    return found


def package_versions(packages: Sequence[str] = ("metaworld", "mujoco")) -> dict[str, str]:
    """The versions that numbers can depend on: those of ``packages`` and of what every evaluation uses."""
    found = {"python": platform.python_version()}
    for package in ("goskill", *packages, "gymnasium", "numpy", "torch"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _summary(tasks: Sequence[TaskEpisodes]) -> Summary:
    episodes = sum(len(task) for task in tasks)
    known = all(task.success_known for task in tasks)
    at_any, at_end = (
        statistics.success_rate(sum(int(one.sum()) for one in successes), episodes) if known else None
        for successes in ([task.success for task in tasks], [task.success_last for task in tasks])
    )
    return Summary(
        returns=statistics.stratified_mean([task.returns for task in tasks]),
        success=at_any,
        success_last=at_end,
        length=float(np.mean([task.length.mean() for task in tasks])),
        episodes=episodes,
    )
