"""Pickles and deep copies of environments."""

import copy
import pickle

import numpy as np
import pytest
from envs_stock import actions, difference

from goskill.envs import make, make_vec, tasks_of

COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
}


def assert_same_future(one, other, steps=10):
    for action in actions("random", steps, 3):
        assert difference(one.step(action), other.step(action)) == ""
    assert np.array_equal(one.reset()[0], other.reset()[0])
    for action in actions("extreme", steps, 4):
        assert difference(one.step(action), other.step(action)) == ""
    assert one.np_random.bit_generator.state == other.np_random.bit_generator.state


@pytest.mark.parametrize("task", tasks_of("mt50")[::3])
def test_a_deep_copy_goes_on_with_the_episode_bit_for_bit(task):
    env = make(task, 1)
    env.reset()
    for action in actions("random", 15, 0):
        env.step(action)
    assert_same_future(copy.deepcopy(env), env)


@pytest.mark.parametrize("impl", ["fast", "stock"])
@pytest.mark.parametrize("how", COPIES)
def test_copies_of_every_kind_know_their_options_and_leave_the_original_alone(impl, how):
    env = make("push", 1, impl=impl, goal_visible=False, terminate_on_success=True)
    fresh = make("push", 1, impl=impl, goal_visible=False)
    for one in (env, fresh):
        one.reset()
        for action in actions("random", 15, 0):
            one.step(action)
    copied = COPIES[how](env)
    assert copied.terminate_on_success
    for action in actions("extreme", 10, 5):
        copied.step(action)
    copied.reset()
    assert_same_future(env, fresh)


def test_a_copy_made_before_the_first_reset_begins_as_the_original_does():
    assert np.array_equal(copy.deepcopy(make("reach", 3)).reset()[0], make("reach", 3).reset()[0])


def test_a_copy_of_one_of_several_environments_on_one_model_goes_on_as_that_one():
    with make_vec(["push", "push"], workers=0) as pool:
        pool.reset(seed=1)
        pool.step(np.zeros((2, 4), np.float32))
        original = pool._batch._envs[0]
        copied = copy.deepcopy(original)
        pool._batch._envs[1].step(np.ones(4, np.float32))
        assert_same_future(copied, original)


@pytest.mark.parametrize("how", COPIES)
def test_a_pool_cannot_be_copied(how):
    with make_vec(["reach"], workers=0) as pool, pytest.raises(TypeError, match="pool cannot be copied"):
        COPIES[how](pool)
