"""Mazes as a suite: SiMPL's goals to train and to test on, and any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from goskill.envs.maze.tasks import GROUPS, TASKS, maze_task
from goskill.envs.suite import CollectEpisode, Env, Expert, Suite, TaskBatch
from goskill.errors import InputError


class MazeSuite(Suite):
    """Tasks of `goskill.envs.maze`: SiMPL's by group, and any other goal by its name."""

    name = "maze"
    tasks = TASKS
    groups = GROUPS
    observation_dim = 4
    action_dim = 2
    max_steps = 2000
    packages = ("mujoco",)
    scripted = "goskill's own, breadth-first search and a PD controller, another demonstrator each episode"
    render_fps = 100
    info_keys = ("success",)
    episode_columns: Mapping[str, Any] = {"start": ("i2", 2), "goal": ("i2", 2)}
    prefer_workers = False

    @property
    def observation_space(self) -> Box:
        return Box(-np.inf, np.inf, (self.observation_dim,), np.float64)

    def task_name(self, task: str) -> str:
        return maze_task(str(task)).name

    def prepare(self, options: dict[str, Any]) -> dict[str, Any]:
        from goskill.envs.maze.environment import check_options

        check_options(**options)
        return options

    def make(self, task: str, seed: int | None = None, **options: Any) -> Env:
        """`goskill.envs.maze.make`."""
        from goskill.envs.maze.environment import make

        return make(task, seed, **options)

    def make_batch(self, tasks: Sequence[str], **options: Any) -> TaskBatch | None:
        from goskill.envs.maze.batch import MazeBatch

        if options.get("render_mode") is not None:
            return None
        return MazeBatch([maze_task(task) for task in tasks])

    def film(self, task: str, size: int) -> Env:
        return self.make(task, render_mode="rgb_array", size=size)

    def expert(self, task: str) -> Expert:
        from goskill.envs.maze.scripted import ScriptedMaze

        found = maze_task(task)
        if found.goal is None:
            raise InputError(f"task: {task!r} has no goal of its own to go to")
        return ScriptedMaze(found.layout, found.goal)

    def collector(self) -> CollectEpisode:
        from goskill.envs.maze.episodes import MazeCollector

        return MazeCollector()


MAZE = MazeSuite()
