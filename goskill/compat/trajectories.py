"""The trajectories of all tasks as training code of the Prompt-DT family holds them, gathered column by column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill import _core
from goskill.errors import InputError

Trajectory = Mapping[str, Any]
Trajectories = Sequence[Sequence[Trajectory]]
Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]


class TaskTrajectories:
    """Columns of all trajectories by name, and each task's ``info``.

    ``column(trajectory, name)`` gives float32 [steps, width]. Raises InputError unless there is one list per task.
    """

    def __init__(
        self,
        trajectories: Trajectories,
        info: Mapping[str, Any],
        tasks: Sequence[str],
        names: Iterable[str],
        column: Callable[[Trajectory, str], Float32Array],
    ) -> None:
        if len(trajectories) != len(tasks):
            raise InputError(
                f"trajectories_list: expected one list per task ({len(tasks)}), got {len(trajectories)}"
            )
        self.info = [info[task] for task in tasks]
        self.counts = np.array([len(task) for task in trajectories])
        self._first = np.concatenate([[0], np.cumsum(self.counts)])
        flat = [trajectory for task in trajectories for trajectory in task]
        self._lengths = np.array([len(trajectory["rewards"]) for trajectory in flat])
        self._columns = {
            name: _core.RowGather([column(trajectory, name) for trajectory in flat]) for name in names
        }
        self._mean, self._std = (
            np.stack([np.asarray(task[name], np.float32).reshape(-1) for task in self.info])
            for name in ("state_mean", "state_std")
        )

    def places(self, task: Int64Array, trajectory: Int64Array) -> Int64Array:
        """Where trajectories, told by the index of their task and their own, stand among all."""
        return self._first[task] + trajectory

    def lengths(self, task: Int64Array, trajectory: Int64Array) -> Int64Array:
        """Their steps."""
        return self._lengths[self.places(task, trajectory)]

    def rows(self, name: str, places: Int64Array, rows: Int64Array) -> Float32Array:
        """Rows ``rows`` [B, K] of a column of trajectories ``places`` [B]: [B, K, width], zero where a row is -1."""
        values = self._columns[name].gather(np.repeat(places, rows.shape[1]), rows.reshape(-1))
        return values.reshape(*rows.shape, -1)

    def normalize(self, states: Float32Array, task: Int64Array) -> None:
        """By each task's own mean and deviation, in place."""
        states -= self._mean[task][:, None]
        states /= self._std[task][:, None]


def terminals_name(trajectory: Trajectory) -> str:
    """What a trajectory calls its terminals."""
    return "terminals" if "terminals" in trajectory else "dones"
