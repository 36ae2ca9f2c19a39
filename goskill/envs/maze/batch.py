"""Mazes of one process, stepped together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.utils.seeding import np_random

from goskill.envs.maze.simulation import PointMasses
from goskill.envs.maze.tasks import MazeTask
from goskill.errors import InputError

OBSERVATION_DIM = 4
ACTION_DIM = 2
EPISODE_STEPS = 2000
REACHED_WITHIN = 1.0
START_SPREAD = 0.1

Array = npt.NDArray[Any]


class MazeBatch:
    """N mazes by row, with the numbers of `goskill.envs.maze.make`'s, whose documentation holds for each.

    ``threads`` share the physics; 0: this one.
    """

    def __init__(self, tasks: Sequence[MazeTask], threads: int = 0) -> None:
        for task in tasks:
            if task.goal is None:
                raise InputError(
                    f"task: expected one with a goal, got {task.name!r}, which is for collecting"
                )
        self.tasks = tuple(tasks)
        layouts = list(dict.fromkeys(task.layout for task in tasks))
        self._physics = [PointMasses(layout, threads) for layout in layouts]
        self._layout = np.array([layouts.index(task.layout) for task in tasks])
        self._goals = np.array([task.goal for task in tasks], np.float64)
        self.starts = np.array([task.layout.start for task in tasks], np.float64)
        self.states = np.zeros((len(tasks), OBSERVATION_DIM))
        self.steps = np.zeros(len(tasks), np.int64)
        self.generators: list[np.random.Generator | None] = [None] * len(tasks)

    def reset(self, rows: npt.NDArray[np.int64], seeds: Sequence[int | None]) -> Array:
        """Begin episodes; None goes on with a row's own random numbers. Observations float64 [R, 4]."""
        for row, seed in zip(rows, seeds, strict=True):
            generator = self.generators[row]
            if seed is not None or generator is None:
                generator, _ = np_random(seed)
                self.generators[row] = generator
            self.states[row, :2] = self.starts[row] + generator.uniform(-START_SPREAD, START_SPREAD, 2)
            self.states[row, 2:] = 0.1 * generator.standard_normal(2)
            self.steps[row] = 0
        return self.states[rows]

    def step(
        self, rows: npt.NDArray[np.int64], actions: Array
    ) -> tuple[Array, Array, Array, Array, Mapping[str, Array]]:
        """Observations float64 [R, 4], rewards float64 [R], terminated and truncated bool [R], and ``success``."""
        actions = np.clip(actions, -1.0, 1.0)
        if len(self._physics) == 1:
            self.states[rows] = self._physics[0].step(self.states[rows], actions)
        else:
            for number, physics in enumerate(self._physics):
                here = self._layout[rows] == number
                if here.any():
                    self.states[rows[here]] = physics.step(self.states[rows[here]], actions[here])
        self.steps[rows] += 1
        observations = self.states[rows]
        away = observations[:, :2] - self._goals[rows]
        reached = np.einsum("ij,ij->i", away, away) <= REACHED_WITHIN**2
        rewards = reached.astype(np.float64)
        return observations, rewards, reached, self.steps[rows] >= EPISODE_STEPS, {"success": rewards}

    def close(self) -> None:
        """End the threads."""
        for physics in self._physics:
            physics.close()
