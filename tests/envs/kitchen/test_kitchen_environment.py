"""The kitchen: FrankaKitchen-v1's numbers, D4RL's and SiMPL's rewards."""

import copy
import importlib.metadata
import pickle

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from goskill.envs.kitchen import SUBTASKS, kitchen_task, make
from goskill.envs.kitchen.simulation import assets
from goskill.errors import InputError

STILL = np.zeros(9, np.float32)


def bursts(steps, seed):
    """Random actions, each held for a while so that the arm gets somewhere and touches things."""
    held = np.random.default_rng(seed).uniform(-1.2, 1.2, (steps // 10, 9)).astype(np.float32)
    return np.repeat(held, 10, 0)


def put(env, *subtasks):
    """Move what sub-tasks are about to where their goals are."""
    for name in subtasks:
        env.simulation.data.qpos[SUBTASKS[name].joints] = SUBTASKS[name].goal


@pytest.mark.parametrize("noise", [0.1, 0.01])
def test_equals_franka_kitchen_bit_for_bit(noise):
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import KitchenEnv

    ours = make("kitchen-mixed", robot_noise=noise)
    theirs = KitchenEnv(list(kitchen_task("kitchen-mixed").subtasks), robot_noise_ratio=noise)
    for seed in range(2):
        first, _ = theirs.reset(seed=seed)
        assert np.array_equal(ours.reset(seed=seed)[0], first["observation"])
        for step, action in enumerate(bursts(40, seed)):
            if step == 20:
                put(ours, "microwave", "bottom burner")
                theirs.data.qpos[22], theirs.data.qpos[11:13] = -0.75, [-0.88, -0.01]
            observation, reward, terminated, _, info = ours.step(action)
            expected = theirs.step(action)
            assert np.array_equal(observation, expected[0]["observation"])
            assert (reward, terminated) == expected[1:3]
            assert set(ours.completed) == set(expected[4]["episode_task_completions"])
            assert info["completed_subtasks"] == len(ours.completed)
        assert len(ours.completed) == 2


def test_an_ordered_task_counts_a_subtask_once_those_before_it_count():
    env = make("kitchen-mkb", 0)
    env.reset()
    put(env, "kettle")
    assert env.step(STILL)[1] == 0.0
    put(env, "microwave", "kettle")
    assert env.step(STILL)[1] == 2.0
    assert env.completed == ("microwave", "kettle")


def test_an_episode_is_terminated_when_all_subtasks_have_been_done_once():
    env = make("kitchen-any-mb", 0)
    env.reset()
    put(env, "bottom burner")
    _, reward, terminated, _, info = env.step(STILL)
    assert (reward, terminated, info) == (1.0, False, {"success": 0.0, "completed_subtasks": 1.0})
    env.simulation.data.qpos[11] = 0.0
    put(env, "microwave")
    _, reward, terminated, truncated, info = env.step(STILL)
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert info == {"success": 1.0, "completed_subtasks": 2.0}
    with pytest.raises(ResetNeeded):
        env.step(STILL)


def test_an_episode_is_truncated_after_280_steps():
    env = make("kitchen-mkbs", 0)
    env.reset()
    env._steps = 278
    assert [env.step(STILL)[2:4] for _ in range(2)] == [(False, False), (False, True)]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_goes_on_where_the_original_is(copied):
    env = make("kitchen-mkbs", 0)
    env.reset()
    put(env, "microwave")
    actions = bursts(40, 1)
    for action in actions[:20]:
        env.step(action)
    other = copied(env)
    for action in actions[20:]:
        one, two = env.step(action), other.step(action)
        assert np.array_equal(one[0], two[0])
        assert one[1:] == two[1:]
    assert other.completed == ("microwave",)


def test_a_seed_decides_all_randomness():
    env = make("kitchen-mkbs", 5)
    first = env.reset()[0]
    assert not np.array_equal(env.reset()[0], first)
    assert np.array_equal(env.reset(seed=5)[0], first)


@pytest.mark.filterwarnings("ignore")
def test_passes_gymnasiums_environment_check():
    check_env(make("kitchen-mkbs"), skip_render_check=True)


def test_wrong_arguments_are_refused_by_name():
    with pytest.raises(InputError, match=r"render_mode.*'human'"):
        make("kitchen-mkbs", render_mode="human")
    with pytest.raises(InputError, match=r"robot_noise.*-1"):
        make("kitchen-mkbs", robot_noise=-1)
    env = make("kitchen-mkbs")
    with pytest.raises(ResetNeeded):
        env.step(STILL)
    env.reset()
    for action in (np.zeros(8), np.full(9, np.nan)):
        with pytest.raises(InputError, match=r"^action: expected 9 finite numbers"):
            env.step(action)


@pytest.mark.parametrize(("package", "installed"), [("gymnasium-robotics", None), ("mujoco", "3.4.0")])
def test_other_versions_are_refused_in_one_line_that_names_the_extra(monkeypatch, package, installed):
    def version(name, real=importlib.metadata.version):
        if name != package:
            return real(name)
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr("goskill.envs.kitchen.simulation.version", version)
    with pytest.raises(InputError) as caught:
        assets()
    assert "\n" not in str(caught.value)
    assert package in str(caught.value)
    assert "pip install 'goskill[robotics]'" in str(caught.value)
