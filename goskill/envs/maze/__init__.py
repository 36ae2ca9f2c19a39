"""Mazes: a point mass, a hidden goal, a reward only there."""

from goskill.envs.maze.environment import MazeEnv, make
from goskill.envs.maze.layouts import Layout, layout_of_seed
from goskill.envs.maze.tasks import GROUPS, TASKS, MazeTask, maze_task, task_in

__all__ = [
    "GROUPS",
    "TASKS",
    "Layout",
    "MazeEnv",
    "MazeTask",
    "layout_of_seed",
    "make",
    "maze_task",
    "task_in",
]
