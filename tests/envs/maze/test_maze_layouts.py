"""Layouts of mazes, ways through them, and the names of goals in them."""

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import shortest_path

from goskill.envs.maze import GROUPS, TASKS, MazeLayout, layout_of_seed, maze_task, task_in
from goskill.envs.suite_registry import find_suite
from goskill.errors import InputError

ROOM = ["#####", "#OOO#", "###O#", "#OOO#", "#####"]
SPLIT = ["#####", "#O#O#", "#####"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_distances_are_those_of_shortest_paths(seed):
    layout = layout_of_seed(seed)
    free = ~layout.walls
    cells = np.full(free.shape, -1)
    cells[free] = np.arange(free.sum())
    down, across = free[1:] & free[:-1], free[:, 1:] & free[:, :-1]
    one = np.concatenate([cells[1:][down], cells[:, 1:][across]])
    other = np.concatenate([cells[:-1][down], cells[:, :-1][across]])
    graph = coo_array((np.ones(len(one)), (one, other)), (free.sum(),) * 2)
    expected = shortest_path(graph, directed=False, indices=cells[layout.start])
    assert np.array_equal(layout.distances(layout.start)[free], expected)
    assert np.isfinite(expected).all()


def test_a_seed_gives_one_maze_and_another_seed_another():
    assert layout_of_seed(3).rows == layout_of_seed.__wrapped__(3).rows
    assert layout_of_seed(3).rows != layout_of_seed(4).rows


def test_simpls_goals_are_in_their_groups_and_can_be_reached():
    sizes = {group: len(set(tasks)) for group, tasks in GROUPS.items()}
    assert sizes == {
        **{"maze-40-train": 40, "maze-20-train": 20, "maze-10-train": 10, "maze-test": 10},
        **{"maze-top-train": 10, "maze-top-test": 10, "maze-bottom-test": 10},
    }
    assert not set(GROUPS["maze-40-train"]) & set(GROUPS["maze-test"])
    assert GROUPS["maze-test"][0] == "maze-r12-c07"
    for name in TASKS:
        task = maze_task(name)
        assert task.layout.start == (10, 10)
        assert np.isfinite(task.layout.distances(task.layout.start)[task.goal])


def test_names_say_seed_row_and_column():
    row, column = layout_of_seed(7).start
    task = maze_task(f"maze-s7-r{row}-c0{column}")
    assert (task.name, task.goal) == (f"maze-s7-r{row:02d}-c{column:02d}", (row, column))
    assert task.layout == layout_of_seed(7)
    assert find_suite("maze").task_name("maze-r1-c1") == "maze-r01-c01"


def test_a_layout_of_ones_own_starts_near_its_middle():
    layout = MazeLayout.of("\n".join(ROOM))
    assert layout.start == (1, 2)
    assert task_in(layout, (1, 1)).goal == (1, 1)
    assert MazeLayout.of(ROOM, (3, 1)).start == (3, 1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["OOO", "OOO", "OOO"], "walls all around"),
        (["###", "#OO", "###"], "opening in its border"),
        (["###", "###", "###"], "at least one free cell"),
        (["###", "#O#", "##"], "rows of one length"),
        ([], "at least 3 rows"),
        (["###", "#x#", "###"], "'x'"),
    ],
)
def test_layouts_that_hold_nothing_in_are_refused(rows, message):
    with pytest.raises(InputError, match=rf"^layout: .*{message}"):
        MazeLayout.of(rows)


def test_goals_and_starts_that_cannot_be_are_refused():
    with pytest.raises(InputError, match=r"^goal: no way leads from the start \(1, 3\)"):
        task_in(MazeLayout.of(SPLIT, (1, 3)), (1, 1))
    with pytest.raises(InputError, match=r"^start: expected a free cell"):
        MazeLayout.of(ROOM, (2, 2))
    with pytest.raises(InputError, match=r"^start: expected \(row, column\)"):
        MazeLayout.of(ROOM, "middle")
    for name in ("maze-r13-c17", "maze-r00-c00", "maze-r99-c01", "maze-8-2", "maze-"):
        with pytest.raises(InputError, match=r"^task: .*" + name):
            maze_task(name)
