"""Suites, task names and episode seeds."""

import pytest

from goskill.envs import SUITES, episode_seed, task_name, task_names, tasks_of
from goskill.errors import InputError


def test_suites_have_their_sizes_and_no_task_twice():
    sizes = {name: len(tasks) for name, tasks in SUITES.items()}
    assert sizes == {"mt10": 10, "mt30": 30, "mt50": 50, "ml45-train": 45, "ml45-test": 5}
    assert all(len(set(tasks)) == len(tasks) for tasks in SUITES.values())


def test_mt50_is_every_task_of_the_package_and_ml45_splits_it():
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    assert {f"{task}-v3" for task in tasks_of("mt50")} == set(ALL_V3_ENVIRONMENTS)
    assert sorted(tasks_of("ml45-train") + tasks_of("ml45-test")) == sorted(tasks_of("mt50"))
    assert set(tasks_of("mt10")) < set(tasks_of("mt50"))
    assert tasks_of("mt30") == tasks_of("mt50")[:30]


def test_mt10_is_the_packages_own():
    from metaworld.env_dict import MT10_V3

    assert {f"{task}-v3" for task in tasks_of("mt10")} == set(MT10_V3)


@pytest.mark.parametrize("given", ["door-close", "door-close-v2", "door-close-v3"])
def test_versions_are_accepted(given):
    assert task_name(given) == "door-close"


def test_a_suite_a_name_or_names_become_task_names():
    assert task_names("ml45-test") == tasks_of("ml45-test")
    assert task_names("reach-v2, push") == ["reach", "push"]
    assert task_names(["reach", "push-v3"]) == ["reach", "push"]


def test_unknown_names_are_refused_with_the_nearest_one():
    with pytest.raises(InputError, match=r"'dor-close'.*did you mean 'door-close'"):
        task_name("dor-close")
    with pytest.raises(InputError, match=r"'mt11'.*did you mean 'mt10'"):
        tasks_of("mt11")
    with pytest.raises(InputError, match=r"at least one"):
        task_names([])


def test_episode_seed_is_a_pure_function_that_depends_on_each_argument():
    seeds = {
        episode_seed(seed, task, episode)
        for seed in range(3)
        for task in ("reach", "push")
        for episode in range(5)
    }
    assert len(seeds) == 30
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert episode_seed(0, "reach", 1) == episode_seed(0, "reach-v2", 1)


def test_evaluation_never_repeats_an_episode_of_the_data_of_the_same_seed():
    evaluated, collected = (
        {
            episode_seed(seed, task, episode, purpose)
            for seed in range(2)
            for task in ("reach", "push")
            for episode in range(100)
        }
        for purpose in ("evaluation", "collection")
    )
    assert len(evaluated) == len(collected) == 400
    assert evaluated.isdisjoint(collected)
