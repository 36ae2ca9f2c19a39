"""Ways through a maze, seen from above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from goskill.errors import InputError

_WALL, _START, _GOAL = "#46464e", "#202024", "#d1495b"
_OFF_CENTRE = 0.2
"""Position (i, j) is off the middle of cell (i, j) by this, in goskill's mazes as in D4RL's."""
_COLUMNS = 5
_REACHED_WITHIN = 1.0


@dataclass(frozen=True)
class MazePanel:
    """Trajectories in one panel, the first dark and the last light; each [T, 2 or more]: row, column, anything."""

    title: str
    trajectories: Sequence[npt.NDArray[np.floating[Any]]]
    goal: Sequence[float] | None = None


def draw_mazes(
    walls: npt.NDArray[np.bool_], panels: Sequence[MazePanel], start: Sequence[float] | None = None
) -> Figure:
    """A maze from above in each panel, rows going down: trajectories, a cross at the start, a ring around the goal.

    ``walls`` is bool [rows, columns] (`goskill.envs.maze.MazeLayout.walls`). Observations of the suite ``maze`` will
    do as trajectories. Raises InputError for arrays of other shapes, and without a panel.
    """
    walls = np.asarray(walls)
    if walls.ndim != 2 or walls.dtype != np.bool_:
        raise InputError(f"walls: expected bool [rows, columns], got {walls.dtype} {list(walls.shape)}")
    if not panels:
        raise InputError("panels: expected at least one, got none")
    columns = min(len(panels), _COLUMNS)
    rows = -(-len(panels) // columns)
    size = 4.6 if len(panels) == 1 else 2.4
    figure, axes = plt.subplots(rows, columns, figsize=(size * columns, (size + 0.3) * rows), squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        _draw_panel(axis, walls, panel, start)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    return figure


def _draw_panel(
    axis: Axes, walls: npt.NDArray[np.bool_], panel: MazePanel, start: Sequence[float] | None
) -> None:
    axis.imshow(walls, cmap=ListedColormap(["white", _WALL]), vmin=0, vmax=1)
    lines = [_line(panel.title, number, way) for number, way in enumerate(panel.trajectories)]
    shades = colormaps["viridis"](np.linspace(0.1, 0.9, max(len(lines), 1)))
    axis.add_collection(LineCollection(lines, colors=list(shades), linewidths=1.2, alpha=0.8))
    if start is not None:
        axis.plot(start[1] + _OFF_CENTRE, start[0] + _OFF_CENTRE, "x", color=_START, markersize=7, zorder=3)
    if panel.goal is not None:
        middle = panel.goal[1] + _OFF_CENTRE, panel.goal[0] + _OFF_CENTRE
        axis.add_patch(Circle(middle, _REACHED_WITHIN, fill=False, color=_GOAL, linewidth=1.6, zorder=3))
    axis.set_title(panel.title, fontsize=10)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)


def _line(title: str, number: int, trajectory: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """The points of a way as a plot takes them, [T, 2]: column, row."""
    way = np.asarray(trajectory, np.float64)
    if way.ndim != 2 or way.shape[1] < 2:
        raise InputError(
            f"panel {title!r}: expected trajectory {number} to be [T, 2 or more], got {list(way.shape)}"
        )
    return way[:, 1::-1] + _OFF_CENTRE
