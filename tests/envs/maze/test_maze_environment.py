"""Mazes: D4RL's point mass, SiMPL's reward."""

import copy
import pickle

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from goskill.envs import make_vec
from goskill.envs.maze import MazeLayout, layout_of_seed, make, maze_task, task_in
from goskill.envs.maze.batch import MazeBatch
from goskill.envs.maze.simulation import PointMasses
from goskill.envs.suite_registry import find_suite
from goskill.errors import InputError

ROOM = ["######", "#OOOO#", "#O#OO#", "#OOOO#", "######"]
STILL = np.zeros(2, np.float32)


def bursts(steps, seed, rows=None):
    """Random forces, each held for a while so that the point mass runs into walls."""
    shape = (steps // 20, 2) if rows is None else (steps // 20, rows, 2)
    return np.repeat(np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32), 20, 0)


def test_a_step_is_that_of_gymnasium_robotics_point_maze_in_other_coordinates():
    from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv

    grid = [[int(cell == "#") for cell in row] for row in ROOM]
    theirs = PointMazeEnv(maze_map=grid, continuing_task=False)
    theirs.reset(seed=0)
    ours = PointMasses(MazeLayout.of(ROOM))
    # Rows go down and positions are 0.2 off the middle of a cell here; y goes up from the middle of the maze there.
    height, width = len(grid), len(grid[0])
    to_rows = np.array([[0.0, -1.0], [1.0, 0.0]])
    shift = np.array([height / 2 - 0.5 - 0.2, width / 2 - 0.5 - 0.2])
    touched = 0
    for force in bursts(1000, 1):
        point = theirs.point_env.data
        before = np.concatenate([to_rows @ point.qpos + shift, to_rows @ point.qvel])
        expected = theirs.step(force)[0]["observation"]
        (after,) = ours.step(before[None], (to_rows @ force)[None])
        np.testing.assert_allclose(after[:2], to_rows @ expected[:2] + shift, rtol=0, atol=1e-9)
        np.testing.assert_allclose(after[2:], to_rows @ expected[2:], rtol=0, atol=1e-6)
        touched += point.ncon > 1  # beside the ground
    assert touched > 100


def test_speed_grows_with_force_and_is_clipped_before_a_step():
    physics = PointMasses(layout_of_seed(0))
    state = np.array([[10.0, 11.0, 9.0, 0.0]])
    (after,) = physics.step(state, np.zeros((1, 2)))
    mass = 1000 * 4 / 3 * np.pi * 0.1**3
    slowed = 5.0 / (1.0 + 0.01 / mass)  # damping 1, implicitly
    np.testing.assert_allclose(after, [10.0 + 0.01 * slowed, 11.0, slowed, 0.0], atol=1e-12)
    (pushed,) = physics.step(np.array([[10.0, 11.0, 0.0, 0.0]]), np.array([[0.0, 1.0]]))
    np.testing.assert_allclose(pushed[3], 100 / mass * 0.01 / (1.0 + 0.01 / mass), atol=1e-12)


@pytest.mark.parametrize("threads", [0, 2])
def test_many_together_move_as_each_alone(threads):
    row, column = np.argwhere(~layout_of_seed(1).walls)[0]
    names = ["maze-r12-c07", f"maze-s1-r{row}-c{column}", "maze-r01-c19"]
    together = MazeBatch([maze_task(name) for name in names], threads)
    alone = [make(name, seed) for seed, name in enumerate(names)]
    rows = np.arange(3)
    first = together.reset(rows, [0, 1, 2])
    for row, env in enumerate(alone):
        assert np.array_equal(first[row], env.reset()[0])
    for forces in bursts(200, 2, 3):
        observations, rewards, terminated, truncated, infos = together.step(rows, forces)
        for row, env in enumerate(alone):
            if env._over:
                continue
            expected = env.step(forces[row])
            assert np.array_equal(observations[row], expected[0])
            found = rewards[row], terminated[row], truncated[row], {"success": infos["success"][row]}
            assert found == expected[1:]
    together.close()


def test_a_pool_steps_mazes_as_they_step_alone():
    names = ["maze-r12-c07", "maze-r05-c12"]
    envs = [make(name) for name in names]
    with make_vec(names, suite="maze", workers=0) as pool:
        expected = [env.reset(seed=7 + row)[0] for row, env in enumerate(envs)]
        assert np.array_equal(pool.reset(seed=7)[0], expected)
        for forces in bursts(60, 3, 2):
            steps = [env.step(force) for env, force in zip(envs, forces, strict=True)]
            observations, rewards, *_ = pool.step(forces)
            assert np.array_equal(observations, [step[0] for step in steps])
            assert np.array_equal(rewards, [step[1] for step in steps])


def test_an_episode_begins_near_the_start_and_ends_at_the_goal():
    env = make("maze-r10-c12", 0)
    for _ in range(20):
        observation, _ = env.reset()
        assert np.abs(observation[:2] - 10).max() <= 0.1
        assert np.abs(observation[2:]).max() < 0.6
    env._batch.states[0] = [10.0, 10.9, 0.0, 5.0]
    assert env.step(STILL)[1:4] == (0.0, False, False)
    for _ in range(2):
        _, reward, terminated, truncated, info = env.step(STILL)
    assert (reward, terminated, truncated, info) == (1.0, True, False, {"success": 1.0})
    with pytest.raises(ResetNeeded):
        env.step(STILL)


def test_an_episode_is_truncated_after_2000_steps():
    env = make("maze-r12-c07", 0)
    env.reset()
    ends = [env.step(STILL)[2:4] for _ in range(2000)]
    assert ends == [(False, False)] * 1999 + [(False, True)]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_goes_on_where_the_original_is(copied):
    env = make("maze-r01-c19", 4)
    env.reset()
    forces = bursts(200, 5)
    for force in forces[:100]:
        env.step(force)
    other = copied(env)
    for force in forces[100:]:
        one, two = env.step(force), other.step(force)
        assert np.array_equal(one[0], two[0])
        assert one[1:] == two[1:]
    assert np.array_equal(env.reset()[0], other.reset()[0])


@pytest.mark.filterwarnings("ignore")
def test_passes_gymnasiums_environment_check():
    check_env(make("maze-r12-c07"), skip_render_check=True)


def test_a_picture_shows_walls_the_goal_and_where_the_point_mass_is():
    env = make(task_in(MazeLayout.of(ROOM), (1, 1)), 0, render_mode="rgb_array", size=60)
    env.reset()
    first = env.render()
    assert first.shape == (60, 60, 3)
    assert np.array_equal(first[5, 5], first[25, 25])  # the border, and the wall inside
    assert not np.array_equal(first[15, 15], first[35, 35])  # the goal, and a free cell
    for _ in range(30):
        env.step(np.ones(2))
    assert not np.array_equal(env.render(), first)
    assert make("maze-r12-c07").render() is None


def test_wrong_arguments_are_refused_by_name():
    with pytest.raises(InputError, match=r"render_mode.*'human'"):
        make("maze-r12-c07", render_mode="human")
    with pytest.raises(InputError, match=r"size.*0"):
        make("maze-r12-c07", size=0)
    with pytest.raises(InputError, match=r"^task: .*'maze-play'"):
        make("maze-play")
    env = make("maze-r12-c07")
    env.reset()
    for action in (np.zeros(3), np.full(2, np.inf)):
        with pytest.raises(InputError, match=r"^action: expected 2 finite numbers"):
            env.step(action)
    assert find_suite("maze").make_batch(["maze-r12-c07"], render_mode="rgb_array") is None
