"""The scripted controller does every sub-task, and what it collects is what it says."""

import numpy as np
import pytest

from goskill.envs.kitchen import SUBTASKS, make, task_of
from goskill.envs.kitchen.episodes import KitchenCollector
from goskill.envs.kitchen.hand import HandStyle
from goskill.envs.kitchen.scripted import ScriptedKitchen
from goskill.envs.suite_registry import find_suite


@pytest.mark.parametrize("name", SUBTASKS)
def test_every_subtask_is_done_from_the_start(name):
    env = make(task_of([name]).name, 0)
    generator = np.random.default_rng(0)
    policy = ScriptedKitchen([name], generator, style=HandStyle(sway=0.01, slip=0.002), noise=0.05, wander=5)
    observation, _ = env.reset()
    for _ in range(80):
        observation, reward, terminated, _, _ = env.step(policy(observation))
        if terminated:
            break
    assert reward == 1.0


def test_an_episode_of_play_does_four_subtasks_and_says_which_and_when():
    episode = KitchenCollector()("kitchen-play", 0, 1, 0)
    order = episode.episode_columns["order"].split(",")
    labels = episode.columns["subtask"]
    assert len(set(order)) == 4
    assert episode.rewards.sum() == 4.0
    assert episode.success[-1]
    # Each sub-task is rewarded while the label says that it is being done.
    names = [list(SUBTASKS)[labels[step]] for step in np.flatnonzero(episode.rewards)]
    assert names == order
    assert episode.observations.shape == (len(episode.actions) + 1, 59)
    assert not episode.terminated.any()
    assert list(np.flatnonzero(episode.truncated)) == [len(episode.actions) - 1]


def test_an_episode_is_a_function_of_task_number_and_seed_alone():
    first, second = KitchenCollector(), KitchenCollector()
    first("kitchen-m", 3, 10, 7)
    one, two = first("kitchen-l", 0, 10, 7), second("kitchen-l", 0, 10, 7)
    assert np.array_equal(one.observations, two.observations)
    assert np.array_equal(one.actions, two.actions)
    other = second("kitchen-l", 1, 10, 7)
    assert not np.array_equal(one.actions[:10], other.actions[:10])
    assert one.terminated[-1]


def test_the_suite_has_an_expert_and_its_tasks_by_group():
    suite = find_suite("kitchen")
    assert len(suite.groups["kitchen-test"]) == 10
    action = suite.expert("kitchen-mkbs")(make("kitchen-mkbs", 0).reset()[0])
    assert action.shape == (9,)
    assert action.dtype == np.float32
    assert np.abs(action).max() <= 1.0
