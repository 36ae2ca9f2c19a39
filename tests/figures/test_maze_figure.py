"""Ways through a maze, from arrays alone."""

import numpy as np
import pytest

from goskill.errors import InputError
from goskill.figures.maze import MazePanel, draw_mazes

WALLS = np.pad(np.zeros((3, 4), bool), 1, constant_values=True)


def test_ways_run_through_the_cells_that_they_run_through():
    way = np.array([[1.0, 1.0, 9.0, 9.0], [1.0, 3.0, 9.0, 9.0]])
    figure = draw_mazes(WALLS, [MazePanel("one", [way], goal=(3, 4)), MazePanel("two", [])], start=(1, 1))
    (lines,) = figure.axes[0].collections
    np.testing.assert_allclose(lines.get_segments()[0], [[1.2, 1.2], [3.2, 1.2]])
    np.testing.assert_allclose(figure.axes[0].patches[0].center, (4.2, 3.2))
    assert np.array_equal(figure.axes[0].images[0].get_array(), WALLS)
    assert [axis.get_title() for axis in figure.axes] == ["one", "two"]


def test_other_shapes_are_refused_by_name():
    with pytest.raises(InputError, match=r"^walls: .*float64 \[3, 3\]"):
        draw_mazes(np.zeros((3, 3)), [MazePanel("one", [])])
    with pytest.raises(InputError, match=r"^panels"):
        draw_mazes(WALLS, [])
    with pytest.raises(InputError, match=r"'one'.*trajectory 1 .*\[5\]"):
        draw_mazes(WALLS, [MazePanel("one", [np.zeros((2, 2)), np.zeros(5)])])
