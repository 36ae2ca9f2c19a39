"""One episode: as a store gives it, and as a writer takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data.columns import step_values
from goskill.data.statistics import Statistics
from goskill.data.values import float32_values, success_values
from goskill.errors import InputError


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
