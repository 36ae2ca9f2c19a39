"""`goskill.envs.make`: stock MetaWorld's numbers behind Gymnasium's interface."""

import numpy as np
import pytest
from envs_stock import actions, difference, stock
from gymnasium.utils.env_checker import check_env

from goskill.envs import make, make_vec
from goskill.envs.metaworld.scripted import ScriptedExpert
from goskill.errors import InputError


@pytest.mark.parametrize("goal_visible", [True, False])
def test_equals_the_stock_environment_and_goes_on_doing_so_after_resets(goal_visible):
    ours, theirs = make("door-close", 5, goal_visible=goal_visible), stock("door-close", 5, goal_visible)
    for episode in range(3):
        assert np.array_equal(ours.reset()[0], theirs.reset()[0])
        for action in actions("random", 40, episode):
            assert difference(ours.step(action), theirs.step(action)) == ""
    assert ours.np_random.bit_generator.state == theirs.np_random.bit_generator.state


def test_the_goal_is_in_the_observation_unless_hidden():
    visible, hidden = make("reach", 1), make("reach", 1, goal_visible=False)
    goal = visible.reset()[0][36:]
    assert np.array_equal(goal, visible.unwrapped._target_pos)
    assert not hidden.reset()[0][36:].any()


def test_every_reset_has_a_new_object_and_goal_and_a_seed_repeats_it():
    env = make("push", 0)
    first, second = env.reset(seed=9)[0], env.reset()[0]
    assert not np.array_equal(first[4:7], second[4:7])
    assert not np.array_equal(first[36:], second[36:])
    assert np.array_equal(env.reset(seed=9)[0], first)
    assert np.array_equal(make("push", 9).reset()[0], first)


def test_an_episode_is_truncated_after_500_steps_and_never_ends_earlier():
    env = make("reach", 0)
    env.reset()
    ends = [env.step(np.zeros(4, np.float32))[2:4] for _ in range(500)]
    assert ends == [(False, False)] * 499 + [(False, True)]


@pytest.mark.filterwarnings("ignore:.*not within the observation space.*")
@pytest.mark.filterwarnings("ignore:.*dtype of the observation.*")
def test_passes_gymnasiums_environment_check():
    check_env(make("reach", 0), skip_render_check=True, skip_close_check=True)


def test_unknown_task_and_render_mode_are_refused_by_name():
    with pytest.raises(InputError, match=r"'dor-open'.*'door-open'"):
        make("dor-open")
    with pytest.raises(InputError, match=r"render_mode.*'human'"):
        make("reach", render_mode="human")


def test_with_terminate_on_success_an_episode_ends_at_its_first_success():
    free, ending = make("door-close", 2), make("door-close", 2, terminate_on_success=True)
    policy = ScriptedExpert("door-close")
    observation, _ = free.reset()
    ending.reset()
    earned, steps, terminated = 0.0, 0, False
    while not terminated:
        action = policy(observation)
        observation, reward, *_, info = free.step(action)
        *_, terminated, truncated, last = ending.step(action)
        earned += reward
        steps += 1
        assert terminated == (info["success"] == 1.0)
        assert not truncated
        assert ("episode" in last) == terminated
    assert last["episode"] == {"r": earned, "l": steps}


def test_the_seed_of_a_reset_is_remembered_as_gymnasium_does():
    env = make("reach", 4)
    assert env.np_random_seed == 4
    env.reset(seed=9)
    assert env.np_random_seed == 9


def test_unknown_cameras_are_refused_and_render_modes_are_those_that_work():
    with pytest.raises(InputError, match=r"camera_name: .* got 'cornr2'; did you mean 'corner2'"):
        make("reach", camera_name="cornr2")
    with (
        pytest.raises(InputError, match=r"camera_name: .* got 'nowhere'"),
        make_vec(["reach"], workers=1, camera_name="nowhere") as pool,
    ):
        pool.reset(seed=0)
    assert make("reach").metadata["render_modes"] == ["rgb_array"]
    assert make("reach", impl="stock").metadata["render_modes"] == ["rgb_array"]


@pytest.mark.parametrize("impl", ["fast", "stock"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_actions_that_are_not_finite_are_refused_and_the_episode_goes_on(impl, value):
    environment, other = make("reach", 3, impl=impl), make("reach", 3, impl=impl)
    environment.reset()
    other.reset()
    with pytest.raises(InputError, match="action: expected 4 finite numbers, got"):
        environment.step(np.array([0.0, 0.0, 0.0, value], np.float32))
    step = np.full(4, 0.5, np.float32)
    assert difference(environment.step(step), other.step(step)) == ""


def test_a_camera_that_is_no_name_is_refused():
    with pytest.raises(InputError, match="camera_name: expected the name of a camera, got 3"):
        make("reach", camera_name=3)
