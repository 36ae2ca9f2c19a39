"""What became of every episode while an agent learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.rollouts.collector import Steps
from goskill.rollouts.policy import FloatArray
from goskill.rollouts.ways import Ways

_COLUMNS = ("environment", "end", "length", "return", "success")


class EpisodeLog:
    """Episodes in the order in which they ended; a checkpoint keeps them.

    Args:
        tasks: of each environment, one name each.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = list(tasks)
        self._steps = 0
        self._length = np.zeros(len(tasks), np.int64)
        self._return = np.zeros(len(tasks))
        self._success = np.full(len(tasks), np.nan)  # unknown until something reports it
        self._rows: list[tuple[float, ...]] = []
        self._ways = Ways(len(tasks))

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, step: Steps) -> dict[str, float]:
        """Note a step of all environments.

        Returns means over the episodes that ended: return, length, success.

        With several tasks also each one's, such as ``return/reach``.
        """
        self._steps += 1
        self._length += 1
        self._return += step.rewards
        self._success = np.fmax(self._success, step.success)
        self._ways.add(step, self._length)
        over = np.flatnonzero(step.terminated | step.truncated)
        if not len(over):
            return {}
        for row in over.tolist():
            values = (row, self._steps, self._length[row], self._return[row], self._success[row])
            self._rows.append(tuple(float(value) for value in values))
        found = self._means(over)
        ended = dict.fromkeys(self.tasks[row] for row in over.tolist())
        for task in ended if len(set(self.tasks)) > 1 else ():
            own = self._means(np.array([row for row in over.tolist() if self.tasks[row] == task]))
            found |= {f"{name}/{task}": value for name, value in own.items()}
        self._length[over], self._return[over], self._success[over] = 0, 0.0, np.nan
        return found

    def _means(self, rows: npt.NDArray[np.int64]) -> dict[str, float]:
        """Over the episodes under way of some environments."""
        found = {"return": float(self._return[rows].mean()), "length": float(self._length[rows].mean())}
        if not np.isnan(self._success[rows]).any():
            found["success"] = float(self._success[rows].mean())
        return found

    def episodes(self, task: str) -> list[dict[str, float | int | None]]:
        """The episodes of a task: ``end`` (steps that its environment had taken), ``length``, ``return``, ``success``.

        ``success`` is None where nothing reported it.
        """
        own = [row for row in self._rows if self.tasks[int(row[0])] == task]
        return [
            {
                "end": int(end),
                "length": int(length),
                "return": paid,
                "success": None if np.isnan(success) else success,
            }
            for _, end, length, paid, success in own
        ]

    def ways(self, task: str) -> dict[int, FloatArray]:
        """By number, the way of some episodes of the first environment of a task: see ``goskill.rollouts.ways``."""
        return self._ways.of(self.tasks.index(task))

    def state_dict(self) -> dict[str, Any]:
        """All episodes, and those under way."""
        return {
            "tasks": list(self.tasks),
            "steps": self._steps,
            "lengths": self._length.copy(),
            "returns": self._return.copy(),
            "successes": self._success.copy(),
            "rows": np.array(self._rows, np.float64).reshape(-1, len(_COLUMNS)),
            "ways": self._ways.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of :meth:`state_dict`."""
        self.tasks = [str(task) for task in state["tasks"]]
        self._steps = int(state["steps"])
        self._length = np.asarray(state["lengths"]).astype(np.int64)
        self._return = np.asarray(state["returns"]).astype(np.float64)
        self._success = np.asarray(state["successes"]).astype(np.float64)
        self._rows = [tuple(row) for row in np.asarray(state["rows"]).tolist()]
        if "ways" in state:
            self._ways.load_state_dict(state["ways"])
        else:  # of a checkpoint from before they were kept
            ended = np.bincount([int(row[0]) for row in self._rows], minlength=len(self.tasks))
            self._ways = Ways.after(ended, self._length)
