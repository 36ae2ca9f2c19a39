"""The kitchen as a suite: D4RL's goals, SiMPL's tasks, and play."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from goskill.envs.kitchen.tasks import GROUPS, kitchen_task
from goskill.envs.suite import CollectEpisode, Env, Expert, Suite


class KitchenSuite(Suite):
    """Tasks of `goskill.envs.kitchen`: those of the groups, and any other selection of sub-tasks by its name."""

    name = "kitchen"
    tasks = tuple(task for group in GROUPS.values() for task in group)
    groups = GROUPS
    observation_dim = 59
    action_dim = 9
    max_steps = 280
    packages = ("gymnasium-robotics", "mujoco")
    scripted = "goskill's own, sub-tasks one after the other, another demonstrator each episode"
    render_fps = 12
    info_keys = ("success", "completed_subtasks")
    columns: Mapping[str, Any] = {"subtask": np.int8}
    episode_columns: Mapping[str, Any] = {"order": "U120"}

    @property
    def observation_space(self) -> Box:
        return Box(-np.inf, np.inf, (self.observation_dim,), np.float64)

    def task_name(self, task: str) -> str:
        return kitchen_task(str(task)).name

    def prepare(self, options: dict[str, Any]) -> dict[str, Any]:
        from goskill.envs.kitchen.environment import check_options
        from goskill.envs.kitchen.simulation import assets

        check_options(**options)
        assets()
        return options

    def make(self, task: str, seed: int | None = None, **options: Any) -> Env:
        """`goskill.envs.kitchen.make`."""
        from goskill.envs.kitchen.environment import make

        return make(task, seed, **options)

    def film(self, task: str, size: int) -> Env:
        return self.make(task, render_mode="rgb_array", width=size, height=size)

    def expert(self, task: str) -> Expert:
        from goskill.envs.kitchen.scripted import ScriptedKitchen

        return ScriptedKitchen(kitchen_task(task).subtasks)

    def collector(self) -> CollectEpisode:
        from goskill.envs.kitchen.episodes import KitchenCollector

        return KitchenCollector()


KITCHEN = KitchenSuite()
