"""One maze with the Gymnasium interface."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box

from goskill.envs.maze.batch import ACTION_DIM, OBSERVATION_DIM, MazeBatch
from goskill.envs.maze.pictures import draw
from goskill.envs.maze.tasks import MazeTask, maze_task
from goskill.errors import InputError

INFO_KEYS = ("success",)
_RENDER_MODES = ("rgb_array",)
_ROW = np.zeros(1, np.int64)


def check_options(render_mode: str | None = None, size: int = 480) -> None:
    """Raises InputError for what `make` would refuse."""
    if render_mode is not None and render_mode not in _RENDER_MODES:
        raise InputError(f"render_mode: expected None or 'rgb_array', got {render_mode!r}")
    if not 1 <= size <= 4096:
        raise InputError(f"size: expected from 1 to 4096 pixels, got {size}")


class MazeEnv(gymnasium.Env[npt.NDArray[np.float64], npt.NDArray[np.float32]]):
    """A goal in a maze: see `make`. Pickles and copies go on exactly where the original is."""

    def __init__(self, task: MazeTask, *, render_mode: str | None = None, size: int = 480) -> None:
        check_options(render_mode, size)
        self.task = task
        self.render_mode = render_mode
        self.metadata = {"render_modes": list(_RENDER_MODES), "render_fps": 100}
        self.observation_space = Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float64)
        self.action_space = Box(-1.0, 1.0, (ACTION_DIM,), np.float32)
        self._size = size
        self._batch = MazeBatch([task])
        self._over = True
        self._trail: list[npt.NDArray[np.float64]] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
        """The beginning of an episode: near the layout's start, nearly at rest."""
        super().reset(seed=seed, options=options)
        self._batch.generators[0] = self.np_random
        self._over = False
        (observation,) = self._batch.reset(_ROW, [None])
        self._trail = [observation[:2]]
        return observation, {}

    def step(
        self, action: npt.ArrayLike
    ) -> tuple[npt.NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """One step; the reward is 1 within 1.0 of the goal, else 0."""
        if self._over:
            raise ResetNeeded("the episode has ended: reset the maze before its next step")
        checked = np.asarray(action)
        if checked.shape != (ACTION_DIM,) or not np.isfinite(checked).all():
            raise InputError(f"action: expected {ACTION_DIM} finite numbers, got {checked.tolist()}")
        found = self._batch.step(_ROW, checked[None])
        observations, rewards, terminated, truncated, infos = found
        self._over = bool(terminated[0] or truncated[0])
        if self.render_mode is not None:
            self._trail.append(observations[0, :2])
        reward = float(rewards[0])
        return (
            observations[0],
            reward,
            bool(terminated[0]),
            bool(truncated[0]),
            {"success": infos["success"][0]},
        )

    def render(self) -> Any:
        """The maze from above with the way so far, uint8 [size, size, 3]; None without ``render_mode="rgb_array"``."""
        if self.render_mode is None:
            return None
        return draw(self.task, np.array(self._trail), self._size)

    def __getstate__(self) -> dict[str, Any]:
        kept = {"task", "render_mode", "_size", "_over", "_trail", "_np_random", "_np_random_seed"}
        batch = self._batch.states.copy(), self._batch.steps.copy()
        return {"batch": batch, **{name: value for name, value in vars(self).items() if name in kept}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["task"], render_mode=state["render_mode"], size=state["_size"])  # type: ignore[misc]
        states, steps = state.pop("batch")
        vars(self).update(state)
        self._batch.states[:], self._batch.steps[:] = states, steps
        self._batch.generators[0] = self._np_random


def make(
    task: str | MazeTask, seed: int | None = None, *, render_mode: str | None = None, size: int = 480
) -> MazeEnv:
    """One goal in a maze, by its name (`goskill.envs.maze.tasks.maze_task`) or in a layout of one's own.

    Observations are float64 [4], position and velocity by row and column; they do not tell the goal. Actions, float32
    [2] in [-1, 1], are forces. The reward is 1 within 1.0 of the goal, which terminates the episode, else 0; an episode
    is truncated after 2000 steps of 0.01 s. It begins within 0.1 of the start, with velocities of standard deviation
    0.1. The info says ``success``.

    Raises `InputError` for an unknown task or render mode.
    """
    found = maze_task(task) if isinstance(task, str) else task
    env = MazeEnv(found, render_mode=render_mode, size=size)
    if seed is not None:
        env.np_random, env._np_random_seed = gymnasium.utils.seeding.np_random(int(seed))
    return env
