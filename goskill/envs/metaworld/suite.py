"""MetaWorld's suites: all tasks, and the selections that the field trains and evaluates on."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from goskill.envs.metaworld.tasks import SUITES, task_name
from goskill.envs.suite import Expert, Suite


class MetaWorldSuite(Suite):
    """Tasks of MetaWorld, on the exact and fast environments of :func:`goskill.envs.make`."""

    observation_dim = 39
    action_dim = 4
    max_steps = 500
    packages = ("metaworld", "mujoco", "gymnasium")
    reward_version = "v2"

    def __init__(self, name: str, tasks: tuple[str, ...]) -> None:
        self.name = name
        self.tasks = tasks

    def make(
        self, task: str, seed: int | None = None, *, render_mode: str | None = None, **options: Any
    ) -> gymnasium.Env[Any, Any]:
        from goskill.envs.metaworld.environment import make

        return make(task, seed, render_mode=render_mode, **options)

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
