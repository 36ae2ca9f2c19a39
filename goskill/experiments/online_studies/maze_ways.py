"""Ways through a maze by episode, seen from above (SiMPL's Figure 5): rows of a study's runs, and their figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from goskill.errors import InputError
from goskill.experiments import learning
from goskill.files import read_text
from goskill.rollouts.ways import FOLLOWED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WAYS = "ways.jsonl"


def ways_of_run(run: Path, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each episode that a run in mazes followed: ``about``, task, episode, ``way`` [n, 2]: row, column."""
    return [
        {**about, "task": task, "episode": episode, "way": np.round(way[:, :2].astype(float), 2).tolist()}
        for task, episodes in learning.ways(run).items()
        for episode, way in episodes.items()
    ]


def read_ways(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a file of ways. Raises InputError for lines that are none."""
    found = []
    for number, line in enumerate(read_text(Path(path)).splitlines(), 1):
        try:
            row = json.loads(line)
            _ = row["contender"], row["task"], row["seed"], row["episode"], row["way"]
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path}: line {number}: expected a row of ways: {error!r}") from None
        found.append(row)
    return found


def draw_ways(rows: Sequence[Mapping[str, Any]], task: str) -> Figure:
    """The maze of a task from above: contenders go down, episodes go right; a line for each seed, a ring at the goal.

    Raises InputError for rows without the task.
    """
    from goskill.envs.maze import maze_task
    from goskill.figures.maze import MazePanel, draw_mazes

    own = [row for row in rows if row["task"] == task]
    if not own:
        raise InputError(f"rows: expected some of task {task}, got none")
    maze = maze_task(task)
    panels = []
    for contender in dict.fromkeys(row["contender"] for row in own):
        for episode in FOLLOWED:
            ways = [
                np.asarray(row["way"], np.float64)
                for row in sorted(own, key=lambda row: int(row["seed"]))
                if (row["contender"], row["episode"]) == (contender, episode)
            ]
            title = f"{contender}, episode {episode}"
            panels.append(MazePanel(title if ways else f"{title}: none", ways, maze.goal))
    return draw_mazes(maze.layout.walls, panels, maze.layout.start)
