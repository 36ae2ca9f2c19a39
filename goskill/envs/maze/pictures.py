"""A maze from above, as pixels: needs no graphics driver."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from goskill.envs.maze.simulation import OFF_CENTRE
from goskill.envs.maze.tasks import MazeTask

_WALL, _FLOOR = (70, 70, 78), (244, 244, 244)
_TRAIL, _GOAL, _POINT = (160, 190, 230), (60, 160, 90), (30, 90, 190)
_TRAIL_RADIUS, _GOAL_RADIUS, _POINT_RADIUS = 0.08, 0.35, 0.25


def draw(task: MazeTask, trail: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.uint8]:
    """Walls, the goal, and the way [T, 2] with the point mass at its end; rows go down. uint8 [size, size, 3]."""
    walls = task.layout.walls
    scale = max(walls.shape) / size
    places = (np.arange(size) + 0.5) * scale
    cells = np.minimum(places.astype(int), max(walls.shape) - 1)
    square = np.ones((max(walls.shape),) * 2, bool)
    square[: walls.shape[0], : walls.shape[1]] = walls
    picture: npt.NDArray[np.uint8] = np.array([_FLOOR, _WALL], np.uint8)[
        square[np.ix_(cells, cells)].astype(int)
    ]

    def disc(position: npt.NDArray[np.float64], radius: float, colour: tuple[int, int, int]) -> None:
        # Pixels count from the corner of cell (0, 0).
        row, column = position + OFF_CENTRE + 0.5
        down = slice(*np.searchsorted(places, [row - radius, row + radius]))
        across = slice(*np.searchsorted(places, [column - radius, column + radius]))
        inside = (places[down, None] - row) ** 2 + (places[across] - column) ** 2 <= radius**2
        picture[down, across][inside] = colour

    if task.goal is not None:
        disc(np.array(task.goal, np.float64), _GOAL_RADIUS, _GOAL)
    for position in trail:
        disc(position, _TRAIL_RADIUS, _TRAIL)
    if len(trail):
        disc(trail[-1], _POINT_RADIUS, _POINT)
    return picture
