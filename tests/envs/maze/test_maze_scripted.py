"""The scripted controller finds every goal, and what it collects is what it says."""

import numpy as np
import pytest

from goskill.envs.maze import GROUPS, MazeLayout, make, maze_task
from goskill.envs.maze.episodes import MazeCollector
from goskill.envs.maze.scripted import PathStyle, ScriptedMaze
from goskill.envs.suite_registry import find_suite
from goskill.errors import InputError


@pytest.mark.parametrize("name", GROUPS["maze-test"])
def test_goes_to_every_test_goal_with_noise(name):
    env, task = make(name, 0), maze_task(name)
    generator = np.random.default_rng(0)
    policy = ScriptedMaze(task.layout, task.goal, generator, style=PathStyle(sway=0.2), noise=0.2)
    observation, _ = env.reset()
    ended = False
    while not ended:
        observation, reward, terminated, truncated, _ = env.step(policy(observation))
        ended = terminated or truncated
    assert reward == 1.0


def test_an_episode_of_play_leads_from_its_start_to_its_goal():
    collect = MazeCollector()
    episodes = [collect("maze-play", number, 4, 0) for number in range(4)]
    for episode in episodes:
        start, goal = episode.episode_columns["start"], episode.episode_columns["goal"]
        assert np.abs(episode.observations[0, :2] - start).max() <= 0.1
        assert np.hypot(*(episode.observations[-1, :2] - goal)) <= 0.3
        near = np.hypot(*(episode.observations[1:, :2] - goal).T) <= 1.0
        assert np.array_equal(episode.rewards, near)
        assert np.array_equal(episode.success, near)
        assert not episode.terminated.any()
        assert list(np.flatnonzero(episode.truncated)) == [len(episode.actions) - 1]
    starts = {tuple(episode.episode_columns["start"]) for episode in episodes}
    assert len(starts) == 4


def test_a_demonstration_ends_where_an_episode_of_the_task_ends():
    episode = MazeCollector()("maze-r12-c07", 0, 1, 0)
    assert episode.terminated[-1]
    assert not episode.truncated.any()
    assert episode.rewards.sum() == episode.rewards[-1] == 1.0


def test_an_episode_is_a_function_of_task_number_and_seed_alone():
    first, second = MazeCollector(), MazeCollector()
    first("maze-play", 3, 10, 7)
    one, two = first("maze-s2-play", 0, 10, 7), second("maze-s2-play", 0, 10, 7)
    assert np.array_equal(one.observations, two.observations)
    assert np.array_equal(one.actions, two.actions)
    assert not np.array_equal(one.actions, second("maze-s2-play", 0, 10, 8).actions)


def test_goals_out_of_reach_are_refused():
    with pytest.raises(InputError, match=r"^goal: no way"):
        ScriptedMaze(MazeLayout.of(["#####", "#O#O#", "#####"], (1, 3)), (1, 1))
    with pytest.raises(InputError, match="has no goal"):
        find_suite("maze").expert("maze-play")
