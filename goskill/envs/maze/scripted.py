"""A scripted policy for mazes: breadth-first search over cells, and a PD controller from cell to cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.envs.maze.batch import ACTION_DIM
from goskill.envs.maze.layouts import Cell, MazeLayout
from goskill.envs.maze.simulation import MOST_SPEED, OFF_CENTRE

_STIFFNESS = 10.0
"""Speed per distance from the next way-point, as in D4RL's controller."""


@dataclass(frozen=True)
class PathStyle:
    """How one demonstrator moves: its speed, and how far from the middle of a cell it passes, at most."""

    speed: float = MOST_SPEED
    sway: float = 0.0

    @classmethod
    def drawn(cls, generator: np.random.Generator) -> PathStyle:
        """A demonstrator at random."""
        return cls(generator.uniform(2.5, MOST_SPEED), generator.uniform(0.0, 0.25))


_PLAIN = PathStyle()


class ScriptedMaze:
    """Goes to a cell on a shortest way, from observations alone; one object per episode.

    ``noise`` is the standard deviation of what is added to the actions. Where several ways are equally short, and
    where in a cell the way passes, is drawn at random.
    """

    def __init__(
        self,
        layout: MazeLayout,
        goal: Cell,
        generator: np.random.Generator | None = None,
        *,
        style: PathStyle = _PLAIN,
        noise: float = 0.0,
    ) -> None:
        self._generator = np.random.default_rng() if generator is None else generator
        self._style, self._noise = style, noise
        steps = layout.distances(layout.goal(goal))
        # Less than one step, so that it decides between ways of one length only.
        self._distances = steps + self._generator.uniform(0.0, 0.5, steps.shape)
        self._distances[goal] = -1.0
        sway = self._generator.uniform(-style.sway, style.sway, (*steps.shape, 2))
        self._waypoints = np.moveaxis(np.indices(steps.shape), 0, -1) - OFF_CENTRE + sway
        self._waypoints[goal] = goal

    def __call__(self, observation: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """The action, float32 [2] in [-1, 1], for an observation [4]."""
        position, velocity = observation[:2], observation[2:]
        missing = self._waypoints[self._next(position)] - position
        distance = float(np.sqrt(missing @ missing))
        wanted = missing / max(distance, 1e-9) * min(_STIFFNESS * distance, self._style.speed)
        action = wanted - velocity + self._generator.normal(0.0, self._noise, ACTION_DIM)
        return np.asarray(np.clip(action, -1.0, 1.0), np.float32)

    def _next(self, position: npt.NDArray[np.floating[Any]]) -> Cell:
        """The cell to head for: of this one and those beside it, that nearest to the goal."""
        last = np.array(self._distances.shape) - 1
        row, column = (int(part) for part in np.clip(np.round(position + OFF_CENTRE), 0, last))
        near = [(row, column), (row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        return min(
            (c for c in near if 0 <= c[0] <= last[0] and 0 <= c[1] <= last[1]),
            key=lambda c: float(self._distances[c]),
        )
