"""MetaWorld's suites: all tasks, and the selections that the field trains and evaluates on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from goskill.envs.metaworld.tasks import SUITES, task_name
from goskill.envs.renderers import require_rendering
from goskill.envs.suite import Env, Expert, Suite

INFO_KEYS = (
    "success",
    "near_object",
    "grasp_success",
    "grasp_reward",
    "in_place_reward",
    "obj_to_target",
    "unscaled_reward",
)
"""What every MetaWorld environment reports after a step."""


CAMERA = "corner2"


class Upright(gymnasium.Wrapper[Any, Any, Any, Any]):
    """MetaWorld mounts its best camera upside down, and the top quarter of its pictures shows nothing."""

    def render(self) -> Any:
        frame = np.asarray(super().render())[::-1, ::-1]
        return np.ascontiguousarray(frame[len(frame) // 4 :])


class MetaWorldSuite(Suite):
    """Tasks of MetaWorld, on the exact and fast environments of :func:`goskill.envs.make`."""

    observation_dim = 39
    action_dim = 4
    max_steps = 500
    packages = ("metaworld", "mujoco")
    scripted = "MetaWorld's own, with annealed exploration"
    reward_version = "v2"
    render_fps = 80
    info_keys = INFO_KEYS

    def __init__(self, name: str, tasks: tuple[str, ...]) -> None:
        self.name = name
        self.tasks = tasks

    def prepare(self, options: dict[str, Any]) -> dict[str, Any]:
        from goskill.envs.metaworld.environment import check_options, implementation

        check_options(**options)
        # Asked once, so that not each process warns.
        return {"impl": implementation(), **options}

    def make(self, task: str, seed: int | None = None, **options: Any) -> Env:
        """`goskill.envs.make`."""
        from goskill.envs.metaworld.environment import make

        return make(task, seed, **options)

    def make_all(self, tasks: Sequence[str], **options: Any) -> list[Env]:
        from goskill.envs.metaworld.models import Models

        models = Models()
        return [self.make(task, 0, models=models, **options) for task in tasks]

    def film(self, task: str, size: int) -> Env:
        env = self.make(task, 0, render_mode="rgb_array", camera_name=CAMERA, width=size, height=size)
        # Shadows take most of the time of rendering on a processor; physics knows nothing of them.
        env.unwrapped.model.vis.quality.shadowsize = 0  # type: ignore[attr-defined]
        return Upright(env)

    def require_rendering(self) -> None:
        require_rendering()

    @property
    def observation_space(self) -> Box:
        # Tasks have different bounds for their goals, and a reset leaves MetaWorld's observation unclipped.
        return Box(-np.inf, np.inf, (self.observation_dim,), np.float64)

    def task_name(self, task: str) -> str:
        """Without a version: "reach" for "reach-v3". Any task of MetaWorld will do, also one outside the selection."""
        return task_name(task)

    def expert(self, task: str) -> Expert:
        from goskill.envs.metaworld.scripted import ScriptedExpert

        return ScriptedExpert(task)


MT10 = MetaWorldSuite("mt10", SUITES["mt10"])
MT30 = MetaWorldSuite("mt30", SUITES["mt30"])
MT50 = MetaWorldSuite("mt50", SUITES["mt50"])
ML45_TRAIN = MetaWorldSuite("ml45-train", SUITES["ml45-train"])
ML45_TEST = MetaWorldSuite("ml45-test", SUITES["ml45-test"])
METAWORLD = MetaWorldSuite("metaworld", SUITES["mt50"])
