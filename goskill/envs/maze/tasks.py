"""Goals in mazes, by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from goskill.envs.maze.layouts import Cell, MazeLayout, layout_of_seed, simpl
from goskill.errors import InputError, closest

_NAME = re.compile(r"maze-(?:s(?P<seed>\d{1,9})-)?(?:r(?P<row>\d{1,4})-c(?P<column>\d{1,4})|play)")


@dataclass(frozen=True)
class MazeTask:
    """A goal in a layout; None for play, where each episode of task-agnostic data has a start and goal of its own."""

    name: str
    layout: MazeLayout
    goal: Cell | None


def _name(cell: Cell, seed: int | None = None) -> str:
    return f"maze-{'' if seed is None else f's{seed}-'}r{cell[0]:02d}-c{cell[1]:02d}"


GROUPS: dict[str, tuple[str, ...]] = {
    group: tuple(_name(cell) for cell in goals) for group, goals in simpl()[1].items()
}
"""SiMPL's tasks by group: 40, 20 or 10 goals to train on and 10 to test on; and narrower ones, all at the top to train
on, at the top and at the bottom to test on."""
TASKS: tuple[str, ...] = tuple(dict.fromkeys(task for tasks in GROUPS.values() for task in tasks))


@cache
def maze_task(name: str) -> MazeTask:
    """The task of a name.

    ``maze-r08-c02`` is the goal in row 8, column 2 of SiMPL's maze, ``maze-s7-r08-c02`` the same in the maze of seed 7
    (`goskill.envs.maze.layouts.layout_of_seed`); ``maze-play`` and ``maze-s7-play`` are for task-agnostic data.

    Raises `InputError` for other names, and for goals that are walls, outside, or out of reach.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(
            f"task: expected maze-rROW-cCOLUMN, maze-play, or maze-sSEED- before these, got {name!r}; "
            f"{closest(name, TASKS)}"
        )
    seed = None if match["seed"] is None else int(match["seed"])
    layout = simpl()[0] if seed is None else layout_of_seed(seed)
    if match["row"] is None:
        return MazeTask("maze-play" if seed is None else f"maze-s{seed}-play", layout, None)
    try:
        goal = layout.goal((int(match["row"]), int(match["column"])))
    except InputError as error:
        raise InputError(f"task: {name!r}: {error}") from None
    return MazeTask(_name(goal, seed), layout, goal)


def task_in(layout: MazeLayout, goal: Cell, name: str = "maze") -> MazeTask:
    """A goal in a layout of one's own. Raises `InputError` for goals that are walls, outside, or out of reach."""
    return MazeTask(name, layout, layout.goal(goal))
