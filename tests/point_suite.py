"""A suite of two goals on a line, for tests of what learns in environments."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from goskill.envs.suite import Suite


class Point(gymnasium.Env[Any, Any]):
    """Moves by a tenth of the action; pays minus the distance to the goal; ends where it reaches the goal."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, goal: float) -> None:
        self.goal = goal

    def _observation(self) -> np.ndarray:
        return np.array([self.place, self.goal], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = float(self.np_random.uniform(-0.5, 0.5))
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place += 0.1 * float(action[0])
        distance = abs(self.place - self.goal)
        return self._observation(), -distance, distance < 0.1, False, {"success": distance < 0.1}


class PointSuite(Suite):
    name = "point"
    tasks = ("left", "right")
    observation_dim, action_dim, max_steps = 2, 1, 20
    prefer_workers = False

    def make(self, task: str, seed: int | None = None, *, render_mode: str | None = None) -> Any:
        return Point(-1.0 if task == "left" else 1.0)
