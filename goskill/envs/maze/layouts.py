"""Layouts of mazes: SiMPL's, a user's own, and one for every seed."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.errors import InputError

Cell = tuple[int, int]

WALL = "#"
_FREE = "O.0 G"
_SIZE = 20
_WALLED = 0.25
_NEIGHBOURS = ((1, 0), (-1, 0), (0, 1), (0, -1))


@dataclass(frozen=True)
class MazeLayout:
    """Cells by (row, column), of which some are walls. Episodes start in ``start``."""

    rows: tuple[str, ...]
    start: Cell

    @classmethod
    def of(cls, rows: str | Iterable[str], start: Sequence[int] | None = None) -> MazeLayout:
        """A layout drawn with ``#`` for walls and ``O``, a point, a zero or a space for free cells, row by row.

        Episodes start in ``start``, (row, column), by default in the free cell nearest to the middle.

        Raises `InputError` unless the rows are equally long, walls enclose the maze, and the start is free.
        """
        drawn = tuple(rows.strip("\n").split("\n") if isinstance(rows, str) else rows)
        if len(drawn) < 3 or any(len(row) != len(drawn[0]) for row in drawn) or len(drawn[0]) < 3:
            raise InputError(f"layout: expected at least 3 rows of one length, at least 3, got {list(drawn)}")
        strange = set("".join(drawn)) - set(WALL + _FREE)
        if strange:
            raise InputError(
                f"layout: expected {WALL!r} for walls and 'O' for free cells, got {min(strange)!r}"
            )
        border = drawn[0] + drawn[-1] + "".join(row[0] + row[-1] for row in drawn)
        if set(border) != {WALL}:
            raise InputError("layout: expected walls all around the maze, got an opening in its border")
        layout = cls(drawn, (0, 0))
        free = np.argwhere(~layout.walls)
        if not len(free):
            raise InputError("layout: expected at least one free cell, got walls alone")
        if start is None:
            middle = (np.array(layout.walls.shape) - 1) / 2.0
            start = free[np.square(free - middle).sum(1).argmin()].tolist()
        return cls(drawn, layout.free_cell("start", start))

    @cached_property
    def walls(self) -> npt.NDArray[np.bool_]:
        """Which cells are walls, bool [rows, columns]."""
        return np.array([[cell == WALL for cell in row] for row in self.rows])

    def free_cell(self, argument: str, cell: Any) -> Cell:
        """``cell`` as (row, column). Raises `InputError`, naming the argument, unless it is a free cell."""
        try:
            row, column = (int(part) for part in cell)
        except (TypeError, ValueError):
            raise InputError(f"{argument}: expected (row, column), got {cell!r}") from None
        height, width = self.walls.shape
        if not (0 <= row < height and 0 <= column < width) or self.walls[row, column]:
            raise InputError(
                f"{argument}: expected a free cell of the {height} x {width} maze, got {row, column}"
            )
        return row, column

    def goal(self, cell: Any) -> Cell:
        """``cell`` as (row, column). Raises `InputError` unless it is free and can be reached from the start."""
        row, column = self.free_cell("goal", cell)
        if not np.isfinite(self.distances(self.start)[row, column]):
            raise InputError(f"goal: no way leads from the start {self.start} to {row, column}")
        return row, column

    def distances(self, cell: Cell) -> npt.NDArray[np.float64]:
        """The number of steps from each cell to ``cell``, [rows, columns]; infinite where no way leads there."""
        found = np.full(self.walls.shape, np.inf)
        found[cell] = 0.0
        waiting = deque([cell])
        while waiting:
            row, column = waiting.popleft()
            for down, right in _NEIGHBOURS:
                near = row + down, column + right
                if not self.walls[near] and np.isinf(found[near]):
                    found[near] = found[row, column] + 1.0
                    waiting.append(near)
        return found


@cache
def simpl() -> tuple[MazeLayout, dict[str, tuple[Cell, ...]]]:
    """SiMPL's maze (20 x 20 cells and a border), and its goals by group."""
    content = json.loads((files("goskill.envs.maze") / "simpl.json").read_text(encoding="utf-8"))
    layout = MazeLayout.of(content["layout"], content["start"])
    return layout, {
        group: tuple(layout.goal(cell) for cell in goals) for group, goals in content["groups"].items()
    }


@cache
def layout_of_seed(seed: int) -> MazeLayout:
    """A maze of 20 x 20 cells and a border: straight walls with gaps, every free cell reachable from every other."""
    generator = np.random.default_rng([seed, _SIZE])
    walls = np.ones((_SIZE + 2, _SIZE + 2), bool)
    inside = walls[1:-1, 1:-1]
    inside[:] = False
    while inside.mean() < _WALLED:
        _add_wall(inside, generator)
    _connect(walls, generator)
    return MazeLayout.of(["".join("#" if wall else "O" for wall in row) for row in walls])


def _add_wall(inside: npt.NDArray[np.bool_], generator: np.random.Generator) -> None:
    """A wall of 4 to 10 cells, straight down or across, with a gap somewhere."""
    length = int(generator.integers(4, 11))
    along = inside if generator.random() < 0.5 else inside.T
    line = int(generator.integers(len(along)))
    first = int(generator.integers(len(along) - length + 1))
    gap = first + int(generator.integers(1, length - 1))
    along[line, first:gap] = along[line, gap + 1 : first + length] = True


def _connect(walls: npt.NDArray[np.bool_], generator: np.random.Generator) -> None:
    """Open cells of walls, but none of the border, until all free cells are connected."""
    while True:
        free = np.argwhere(~walls)
        layout = MazeLayout(tuple("".join("#" if wall else "O" for wall in row) for row in walls), (0, 0))
        reached = np.isfinite(layout.distances((int(free[0][0]), int(free[0][1]))))
        if (reached | walls).all():
            return
        beside = np.zeros_like(walls)
        for down, right in _NEIGHBOURS:
            beside |= np.roll(reached, (down, right), (0, 1))
        # Towards what is not reached yet if one cell suffices, else further into the wall.
        between = np.zeros_like(walls)
        for down, right in _NEIGHBOURS:
            between |= np.roll(~reached & ~walls, (down, right), (0, 1))
        inner = np.zeros_like(walls)
        inner[1:-1, 1:-1] = walls[1:-1, 1:-1]
        candidates = np.argwhere(inner & beside & between)
        if not len(candidates):
            candidates = np.argwhere(inner & beside)
        row, column = candidates[generator.integers(len(candidates))]
        walls[row, column] = False
