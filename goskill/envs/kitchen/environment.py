"""One kitchen with the Gymnasium interface."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box

from goskill.envs.kitchen.simulation import ACTION_DIM, OBSERVATION_DIM, KitchenSimulation
from goskill.envs.kitchen.tasks import SUBTASKS, KitchenTask, kitchen_task
from goskill.envs.pictures import Pictures
from goskill.errors import InputError

EPISODE_STEPS = 280
ROBOT_NOISE = 0.1
"""The noise in D4RL's published data; FrankaKitchen-v1's own default is 0.01."""
OBJECT_NOISE = 0.0005
INFO_KEYS = ("success", "completed_subtasks")

_RENDER_MODES = ("rgb_array",)
_SHADOWS = 1024
"""Pixels of shadow maps: a quarter of the model's, which halves the time of a picture without a graphics card."""
_CAMERA = {
    "distance": 2.2,
    "azimuth": 70.0,
    "elevation": -35.0,
    "lookat": np.array([-0.2, 0.5, 2.0]),
}


def check_options(
    robot_noise: float = ROBOT_NOISE,
    object_noise: float = OBJECT_NOISE,
    render_mode: str | None = None,
    width: int = 480,
    height: int = 480,
) -> None:
    """Raises InputError for what `make` would refuse."""
    if render_mode is not None and render_mode not in _RENDER_MODES:
        raise InputError(f"render_mode: expected None or 'rgb_array', got {render_mode!r}")
    for name, noise in (("robot_noise", robot_noise), ("object_noise", object_noise)):
        if not 0.0 <= noise <= 1.0:
            raise InputError(f"{name}: expected from 0 to 1, got {noise}")
    for name, pixels in (("width", width), ("height", height)):
        if not 1 <= pixels <= 4096:
            raise InputError(f"{name}: expected from 1 to 4096 pixels, got {pixels}")


class _Camera:
    render_mode: str | None
    mujoco_renderer: Any

    def render(self) -> Any:
        return self.mujoco_renderer.render(self.render_mode)


class KitchenEnv(Pictures, _Camera, gymnasium.Env[npt.NDArray[np.float64], npt.NDArray[np.float32]]):
    """A task of the kitchen: see `make`.

    Pickles and copies go on exactly where the original is, with random numbers and physics of their own.
    """

    def __init__(
        self,
        task: KitchenTask,
        *,
        robot_noise: float = ROBOT_NOISE,
        object_noise: float = OBJECT_NOISE,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
    ) -> None:
        check_options(robot_noise, object_noise, render_mode, width, height)
        self.task = task
        self.render_mode = render_mode
        self.metadata = {"render_modes": list(_RENDER_MODES), "render_fps": 12}
        self.observation_space = Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float64)
        self.action_space = Box(-1.0, 1.0, (ACTION_DIM,), np.float32)
        self.simulation = KitchenSimulation(robot_noise, object_noise)
        self._arguments: dict[str, Any] = {
            "task": task,
            "robot_noise": robot_noise,
            "object_noise": object_noise,
            "render_mode": render_mode,
            "width": width,
            "height": height,
        }
        self._left: list[str] = []
        self._steps = EPISODE_STEPS
        self._renderer: Any = None

    @property
    def completed(self) -> tuple[str, ...]:
        """The task's sub-tasks that count as done in this episode."""
        return tuple(name for name in self.task.subtasks if name not in self._left)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
        """The beginning of an episode: one pose, with new noise."""
        super().reset(seed=seed, options=options)
        self._left, self._steps = list(self.task.subtasks), 0
        return self.simulation.reset(self.np_random), self._info()

    def step(
        self, action: npt.ArrayLike
    ) -> tuple[npt.NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """One step; the reward is the number of sub-tasks that it completed."""
        if self._steps >= EPISODE_STEPS or not self._left:
            raise ResetNeeded("the episode has ended: reset the kitchen before its next step")
        checked = np.asarray(action)
        if checked.shape != (ACTION_DIM,) or not np.isfinite(checked).all():
            raise InputError(f"action: expected {ACTION_DIM} finite numbers, got {checked.tolist()}")
        observation = self.simulation.step(checked, self.np_random)
        self._steps += 1
        reward = float(self._count())
        return observation, reward, not self._left, self._steps == EPISODE_STEPS, self._info()

    def _count(self) -> int:
        """Take what is done now off the list; how many that were."""
        before, qpos = len(self._left), self.simulation.data.qpos
        if self.task.ordered:
            while self._left and SUBTASKS[self._left[0]].is_done(qpos):
                del self._left[0]
        else:
            self._left = [name for name in self._left if not SUBTASKS[name].is_done(qpos)]
        return before - len(self._left)

    def _info(self) -> dict[str, Any]:
        completed = len(self.task.subtasks) - len(self._left)
        return {"success": float(not self._left), "completed_subtasks": float(completed)}

    @property
    def mujoco_renderer(self) -> Any:
        """Made at the first picture."""
        if self._renderer is None:
            from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

            width, height = self._arguments["width"], self._arguments["height"]
            # The shared model asks for a picture of 2560 x 1920 behind every small one, and shadows as fine.
            model = copy.copy(self.simulation.model)
            model.vis.global_.offwidth, model.vis.global_.offheight = width, height
            model.vis.quality.shadowsize = _SHADOWS
            self._renderer = MujocoRenderer(model, self.simulation.data, _CAMERA, width, height)
        return self._renderer

    def close(self) -> None:
        """Free what pictures were drawn with."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def __getstate__(self) -> dict[str, Any]:
        return {
            "arguments": self._arguments,
            "left": list(self._left),
            "steps": self._steps,
            "generator": self._np_random,
            "seed": self._np_random_seed,
            "simulation": self.simulation.state(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state["arguments"])  # type: ignore[misc]
        self._left, self._steps = list(state["left"]), state["steps"]
        self._np_random, self._np_random_seed = state["generator"], state["seed"]
        self.simulation.restore(state["simulation"])


def make(
    task: str,
    seed: int | None = None,
    *,
    robot_noise: float = ROBOT_NOISE,
    object_noise: float = OBJECT_NOISE,
    render_mode: str | None = None,
    width: int = 480,
    height: int = 480,
) -> KitchenEnv:
    """One kitchen task by its name (`goskill.envs.kitchen.tasks.kitchen_task`).

    Observations are float64 [59] and do not tell the task; actions float32 [9] in [-1, 1] are joint speeds
    of 2 rad/s at most, held for 0.08 s. The reward is the number of sub-tasks that a step completes; an
    ordered task counts a sub-task once those before it count. An episode is terminated when all count and
    truncated after 280 steps. The info says ``success`` (1 when all count) and ``completed_subtasks``.

    With the same noise the numbers of an unordered task are those of gymnasium-robotics' FrankaKitchen-v1,
    bit for bit; its default ``robot_noise_ratio`` is 0.01.

    Raises `InputError` for an unknown task or render mode, for noise outside [0, 1], and without the
    versions of gymnasium-robotics and mujoco that the extra ``robotics`` installs.
    """
    env = KitchenEnv(
        kitchen_task(task),
        robot_noise=robot_noise,
        object_noise=object_noise,
        render_mode=render_mode,
        width=width,
        height=height,
    )
    if seed is not None:
        env.np_random, env._np_random_seed = gymnasium.utils.seeding.np_random(int(seed))
    return env
