"""One episode: as a store gives it, and as a writer takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data.columns import EPISODE_ENDS, step_values
from goskill.data.normalization import Statistics
from goskill.data.values import float32_values, success_values
from goskill.errors import InputError

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class Episode:
    """One whole episode of T steps, in the data's own units. The arrays are read-only views of the store.

    ``observations`` float32 [T + 1, observation_dim] (the final one included), ``actions`` float32
    [T, action_dim], ``rewards`` float32 [T], ``returns_to_go`` float32 [T] (undiscounted), ``success``
    bool [T] (the success signal after each step) or None where it was not recorded, ``task`` a name,
    ``return_`` the undiscounted return in float64. ``columns``: the declared columns of the steps, [T, ...] each;
    ``episode_columns``: what the declared columns of the episodes say, numbers, texts or arrays.
    """

    observations: npt.NDArray[np.float32]
    actions: npt.NDArray[np.float32]
    rewards: npt.NDArray[np.float32]
    returns_to_go: npt.NDArray[np.float32]
    success: npt.NDArray[np.bool_] | None
    task: str
    return_: float
    columns: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    episode_columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class CheckedEpisode:
    """One whole episode of T steps as columns hold it, made by :meth:`of`.

    ``observations`` float32 [T + 1, observation_dim], ``actions`` float32 [T, action_dim], ``rewards``
    float32 [T], ``success`` int8 [T] (-1 where it was not recorded), ``statistics`` of the T states. ``columns``
    [T, ...] and ``episode_columns`` are as they were given: the writer knows the types that its store declares.
    """

    observations: npt.NDArray[np.float32]
    actions: npt.NDArray[np.float32]
    rewards: npt.NDArray[np.float32]
    success: npt.NDArray[np.int8]
    statistics: Statistics
    columns: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    episode_columns: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        observations: npt.ArrayLike,
        actions: npt.ArrayLike,
        rewards: npt.ArrayLike,
        success: npt.ArrayLike | None,
        observation_dim: int | None = None,
        action_dim: int | None = None,
        columns: Mapping[str, npt.ArrayLike] | None = None,
        episode_columns: Mapping[str, Any] | None = None,
    ) -> CheckedEpisode:
        """Check what :meth:`StoreWriter.append` takes. None stands for any dimension. Raises InputError."""
        reward_values = float32_values("rewards", rewards, (None,))
        length = len(reward_values)
        if length == 0:
            raise InputError("rewards: expected at least one step, got an empty episode")
        states = float32_values("observations", observations, (length + 1, observation_dim))
        action_values = float32_values("actions", actions, (length, action_dim))
        for name, rows in (("observations", states), ("actions", action_values)):
            if rows.shape[1] == 0:
                raise InputError(f"{name}: expected at least one value per step, got none")
        return cls(
            states,
            action_values,
            reward_values,
            success_values(success, length),
            Statistics.of(states[:-1]),
            {name: step_values(name, values, length) for name, values in (columns or {}).items()},
            dict(episode_columns or {}),
        )


@dataclass(frozen=True, eq=False)
class CheckedBlock:
    """E whole episodes of T steps each, made by :meth:`of` or of one episode: what is written at once.

    Arrays as of :class:`CheckedEpisode`, with the episodes as a first axis; ``statistics`` are of all E * T states.
    ``episode_columns`` hold one entry for each episode.
    """

    observations: npt.NDArray[np.float32]
    actions: npt.NDArray[np.float32]
    rewards: npt.NDArray[np.float32]
    success: npt.NDArray[np.int8]
    statistics: Statistics
    columns: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    episode_columns: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        observations: npt.ArrayLike,
        actions: npt.ArrayLike,
        rewards: npt.ArrayLike,
        columns: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> CheckedBlock:
        """Check episodes whose success was not recorded. Raises InputError."""
        reward_values = float32_values("rewards", rewards, (None, None))
        episodes, length = reward_values.shape
        if not reward_values.size:
            raise InputError(f"rewards: expected at least one step, got shape {list(reward_values.shape)}")
        states = float32_values("observations", observations, (episodes, length + 1, None))
        action_values = float32_values("actions", actions, (episodes, length, None))
        for name, values in (columns or {}).items():
            if values.shape[:2] != (episodes, length) or (name in EPISODE_ENDS and values[:, :-1].any()):
                raise InputError(f"{name}: expected an entry for each step, and ends at last steps only")
        return cls(
            states,
            action_values,
            reward_values,
            np.full((episodes, length), -1, np.int8),
            _statistics(states[:, :-1].reshape(-1, states.shape[2])),
            dict(columns or {}),
        )

    @classmethod
    def single(cls, episode: CheckedEpisode) -> CheckedBlock:
        """One episode."""
        return cls(
            episode.observations[None],
            episode.actions[None],
            episode.rewards[None],
            episode.success[None],
            episode.statistics,
            {name: values[None] for name, values in episode.columns.items()},
            {name: np.asarray(value)[None] for name, value in episode.episode_columns.items()},
        )


def _statistics(rows: npt.NDArray[np.float32]) -> Statistics:
    """Of many rows, as many at a time as a core keeps at hand."""
    total = Statistics.empty(rows.shape[1])
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        total = total.merge(Statistics.of(rows[first : first + _ROWS_AT_ONCE]))
    return total
