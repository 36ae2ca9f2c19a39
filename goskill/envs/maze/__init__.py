"""Mazes: a point mass, a hidden goal, a reward only there."""

from goskill.envs.maze.environment import MazeEnv, make
from goskill.envs.maze.layouts import MazeLayout, layout_of_seed
from goskill.envs.maze.tasks import GROUPS, TASKS, MazeTask, maze_task, task_in

__all__ = [
    "GROUPS",
    "TASKS",
    "MazeEnv",
    "MazeLayout",
    "MazeTask",
    "layout_of_seed",
    "make",
    "maze_task",
    "task_in",
]
