"""Pools of any suite: own dimensions, types, ends and infos, beside Gymnasium's vector environment."""

from __future__ import annotations

import pickle
from functools import partial

import counting_suite
import gymnasium
import numpy as np
import pytest
from counting_suite import HIGH, LOW, TASKS, CountingEnv, Together
from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from test_pool import assert_same

from goskill.envs import EnvironmentPool, GymnasiumSuite, make_vec
from goskill.envs.suite_registry import _loaded, find_suite
from goskill.errors import InputError

SUITE = counting_suite.suite


def gymnasiums(mode, count=4):
    return SyncVectorEnv(
        [partial(CountingEnv, TASKS[index % 3]) for index in range(count)],
        autoreset_mode=mode,
        observation_mode="different",
    )


def roll(pool, steps=13, seed=3):
    generator = np.random.default_rng(0)
    found = [pool.reset(seed=seed)]
    for _ in range(steps):
        action = generator.uniform(LOW, HIGH, (pool.num_envs, 2)).astype(np.float32)
        if pool.metadata["autoreset_mode"] is AutoresetMode.DISABLED and len(found) > 1:
            over = found[-1][2] | found[-1][3] if len(found[-1]) == 5 else np.zeros(pool.num_envs, bool)
            if over.any():
                found.append(pool.reset(options={"reset_mask": over}))
        found.append(pool.step(action))
    return found


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.value)
def test_equals_gymnasiums_vector_environment_in_every_autoreset_mode(mode, workers):
    theirs = gymnasiums(mode)
    with make_vec(TASKS, 4, suite=SUITE, workers=workers, autoreset_mode=mode) as ours:
        for one, other in zip(roll(ours), roll(theirs), strict=True):
            assert_same(one, other)
        assert ours.observation_space == theirs.observation_space
        assert ours.action_space == theirs.action_space
        assert ours.metadata["render_fps"] == 7


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.value)
def test_a_suites_own_batch_gives_the_numbers_of_its_environments(mode, workers):
    with (
        make_vec(TASKS, 4, suite=Together(), workers=workers, groups=2, autoreset_mode=mode) as together,
        make_vec(TASKS, 4, suite=SUITE, workers=0, autoreset_mode=mode) as alone,
    ):
        for one, other in zip(roll(together), roll(alone), strict=True):
            for ours, theirs in zip(one[:-1], other[:-1], strict=True):
                assert np.array_equal(ours, theirs)
            if "final_obs" in other[-1]:
                assert_same(one[-1]["final_obs"], other[-1]["final_obs"])
                over = other[-1]["_final_info"]
                for key in ("count", "is_success"):
                    ours, theirs = one[-1]["final_info"][key], other[-1]["final_info"][key]
                    assert np.array_equal(ours[over], theirs[over].astype(np.float64))


def test_groups_report_the_infos_of_their_own_environments():
    action = np.zeros((4, 2), np.float32)
    with (
        make_vec(TASKS, 4, suite=SUITE, workers=2, groups=2) as pool,
        make_vec(TASKS, 4, suite=SUITE, workers=0) as whole,
    ):
        pool.reset(seed=1)
        whole.reset(seed=1)
        for _ in range(4):
            expected = whole.step(action)
            pool.send(action[:2], 0)
            pool.send(action[2:], 1)
            for group in (1, 0):
                found = pool.recv(group)
                rows = pool.group_slices[group]
                for one, other in zip(found[:4], expected[:4], strict=True):
                    assert np.array_equal(one, other[rows])
                for key, mask in (
                    (key, f"_{key}") for key in ("count", "is_success", "begun") if key in found[4]
                ):
                    assert np.array_equal(found[4][key], expected[4][key][rows])
                    assert np.array_equal(found[4][mask], expected[4][mask][rows])


@pytest.mark.parametrize("workers", [0, 2])
def test_environments_can_be_asked_called_and_changed(workers):
    with make_vec(TASKS, 3, suite=SUITE, workers=workers, render_mode="rgb_array") as pool:
        pool.reset(seed=5)
        assert pool.get_attr("task") == TASKS
        assert pool.call("double", 4, plus=1) == (9, 9, 9)
        assert pool.np_random_seed == (5, 6, 7)
        theirs = gymnasiums(AutoresetMode.NEXT_STEP, count=3)
        theirs.reset(seed=5)
        assert pool.np_random_seed == theirs.np_random_seed
        assert [one.random() for one in pool.np_random] == [one.random() for one in theirs.np_random]
        pool.set_attr("count", [1, 2, 3])
        assert [int(picture[0, 0, 0]) for picture in pool.render()] == [4, 8, 12]
        pool.set_attr("count", 7)
        assert pool.get_attr("count") == (7, 7, 7)
        with pytest.raises(InputError, match="values: expected one for each of 3 environments, got 2"):
            pool.set_attr("count", [1, 2])
        pool.send(np.zeros((3, 2), np.float32))
        for call in (lambda: pool.call("double", 1), lambda: pool.set_attr("count", 1)):
            with pytest.raises(RuntimeError, match="step in flight"):
                call()
        pool.recv()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_what_an_environment_raises_when_asked_is_raised_and_the_pool_goes_on(workers, groups):
    options = {"workers": workers, "groups": groups}
    with (
        make_vec(TASKS, 4, suite=SUITE, **options) as pool,
        make_vec(TASKS, 4, suite=Together(), **options) as other,
    ):
        theirs = gymnasiums(AutoresetMode.NEXT_STEP)
        for one in (pool, theirs):
            one.reset(seed=0)
        for call in (
            lambda one: one.get_attr("nope"),
            lambda one: one.call("nope", 1),
            lambda one: one.call("double"),
            lambda one: one.call("refuse", "long", KeyError, "which"),
            lambda one: one.set_attr("render", 3) or one.set_attr("np_random_seed", 3),
        ):
            with pytest.raises(Exception) as expected:  # noqa: PT011 (whatever Gymnasium raises)
                call(theirs)
            with pytest.raises(type(expected.value)) as found:
                call(pool)
            assert str(found.value) == str(expected.value)
            assert "environment " in str(found.value.__cause__)
        with pytest.raises(AttributeError, match="stepped together"):
            other.get_attr("nope")
        assert len(other.reset(seed=0)[0]) == 4
        for one in (pool, theirs):
            one.set_attr("render", 1)
        action = np.zeros((4, 2), np.float32)
        assert_same(pool.step(action), theirs.step(action))


def test_what_cannot_go_between_processes_is_named_and_the_pool_goes_on():
    with make_vec(TASKS, 3, suite=SUITE, workers=2) as pool:
        pool.reset(seed=0)
        for message, call in (
            ("Can't pickle|Can't get local", lambda: pool.call("double", lambda: 1)),
            ("Can't pickle|Can't get local", lambda: pool.set_attr("count", lambda: 1)),
            ("Can't pickle|Can't get local", lambda: pool.reset(options={"a": lambda: 1})),
            ("^(AttributeError|PicklingError): Can.t (pickle|get)", lambda: pool.call("closure")),
            ("one two", lambda: pool.call("refuse", "long", counting_suite.TwoWordsError, "one", "two")),
        ):
            with pytest.raises((RuntimeError, pickle.PicklingError, AttributeError), match=message):
                call()
        assert pool.call("double", 1) == (2, 2, 2)
        pool.step(np.zeros((3, 2), np.float32))


def test_a_closed_pool_says_so_as_gymnasiums_do():
    pool = make_vec(TASKS, suite=SUITE, workers=0)
    pool.reset(seed=0)
    pool.close()
    calls = (
        pool.reset,
        pool.render,
        lambda: pool.step(np.zeros((3, 2))),
        lambda: pool.get_attr("task"),
        pool.recv,
    )
    for call in calls:
        with pytest.raises(ClosedEnvironmentError, match="closed"):
            call()


def test_options_of_a_reset_reach_the_environments():
    with make_vec(TASKS, suite=SUITE, workers=1) as pool:
        _, infos = pool.reset(seed=0, options={"level": 3, "reset_mask": np.array([True, False, True])})
    assert infos["options"].tolist() == ["{'level': 3}", None, "{'level': 3}"]


def test_works_under_gymnasiums_vector_wrappers():
    pool = gymnasium.wrappers.vector.RecordEpisodeStatistics(make_vec(["short"], 2, suite=SUITE, workers=0))
    pool.reset(seed=0)
    for _ in range(3):
        *_, infos = pool.step(np.zeros((2, 2), np.float32))
    assert infos["episode"]["l"].tolist() == [3, 3]
    assert infos["episode"]["r"].tolist() == [6, 6]


def test_actions_are_held_to_the_suites_own_bounds():
    with make_vec(TASKS, suite=SUITE, workers=0) as pool:
        pool.reset(seed=0)
        pool.step(np.array([HIGH, LOW, HIGH]))
        with pytest.raises(InputError, match=r"\[-2, 3\].*environment 1 \(long\) at step 1"):
            pool.step(np.array([HIGH, [0, 1.5], HIGH]))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("task", "told"),
    [
        (
            "larger",
            r"suite 'broken', task 'larger': expected observations to be a Box of shape \(3,\), got .*\(4,\)",
        ),
        ("wider", r"suite 'broken', task 'wider': expected the suite's action space .*1\.0.*, got .*2\.0"),
        ("scalar", r"environment 1 \(scalar\): expected observations of shape \(3,\), got \(1,\)"),
    ],
)
def test_environments_that_break_their_suites_interface_are_refused_by_name(task, told, workers):
    with (
        pytest.raises(InputError, match=told),
        make_vec(["good", task], suite=counting_suite.broken, workers=workers) as pool,
    ):
        pool.reset(seed=0)


def test_what_an_environment_raises_names_it():
    with make_vec(["good"], suite=counting_suite.broken, workers=0) as pool:
        pool.reset(seed=0)
        with pytest.raises(RuntimeError, match=r"environment 0 \(good\): out of order"):
            pool.step(np.zeros((1, 2), np.float32))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            {"tasks": ["shrot"]},
            "task: expected a task of suite 'counting', got 'shrot'; did you mean 'short'",
        ),
        ({"render_mode": "human"}, "render_mode: expected None or one of 'rgb_array', got 'human'"),
        ({"goal_visible": False}, "suite 'counting': make: .*goal_visible"),
        ({"suite": "mt11"}, "suite: expected one of .*, got 'mt11'; did you mean 'mt10'"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, told):
    with pytest.raises(InputError, match=told):
        make_vec(**{"tasks": TASKS, "suite": SUITE, "workers": 0, **arguments})


def test_a_suite_that_no_process_can_import_runs_in_this_one():
    here = GymnasiumSuite("here", lambda task: CountingEnv(task), TASKS, max_steps=9)
    with pytest.raises(
        InputError, match=r"workers: suite 'here' cannot be sent to worker processes.*workers=0"
    ):
        make_vec(TASKS, suite=here, workers=1)
    with make_vec(TASKS, suite=here) as pool:
        assert pool.num_workers == 0
        assert pool.reset(seed=0)[0].shape == (3, 3)


def test_a_suite_found_by_its_import_path_is_found_there_by_workers_too():
    try:
        suite = find_suite("counting_suite:lambdas")
        with (
            make_vec(TASKS, suite=suite, workers=1) as pool,
            make_vec(TASKS, suite=SUITE, workers=0) as other,
        ):
            assert np.array_equal(pool.reset(seed=2)[0], other.reset(seed=2)[0])
    finally:
        _loaded.pop("counting_suite:lambdas", None)


def test_more_workers_than_cores_are_warned_about():
    with (
        pytest.warns(UserWarning, match="workers: 3000 are slower than"),
        EnvironmentPool(["short"], suite=SUITE, workers=3000) as pool,
    ):
        assert pool.num_workers == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_environments_stepped_together_know_their_seeds(workers):
    with make_vec(["maze-r12-c07"], 3, suite="maze", workers=workers) as pool:
        assert pool.np_random_seed == (-1, -1, -1)
        pool.reset(seed=[7, None, 9])
        pool.reset(seed=[1, 2, 3], options={"reset_mask": np.array([False, True, False])})
        pool.reset()
        assert pool.np_random_seed == (7, 2, 9)


def test_environments_stepped_together_have_no_other_attributes():
    with (
        make_vec(["maze-r12-c07"], 2, suite="maze", workers=0) as pool,
        pytest.raises(AttributeError, match="stepped together"),
    ):
        pool.get_attr("sim")
