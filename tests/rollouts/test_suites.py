"""Collection and evaluation in suites other than MetaWorld."""

from __future__ import annotations

import counting_suite
import gymnasium
import numpy as np
import pytest
from counting_suite import ENDS, HIGH, LOW, TASKS

from goskill.data import EpisodeStore
from goskill.envs import GymnasiumSuite, episode_seed
from goskill.envs import suite_registry as registry
from goskill.errors import InputError
from goskill.rollouts import RandomPolicy, ScriptedPolicy, evaluate
from goskill.rollouts.collection import collect, episode_seeds, suite_of_store

SUITE = counting_suite.suite
LENGTHS = [min(ENDS[task], SUITE.max_steps) for task in TASKS]


def ahead(task):
    """An expert whose action says the task."""
    return lambda observation: np.array([len(task) / 10, observation[1] % 2], np.float32)


EXPERTS = GymnasiumSuite("experts", counting_suite.CountingEnv, TASKS, max_steps=20, expert=ahead)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return {
        workers: collect(
            None, folder / str(workers), suite=SUITE, policy="random", episodes=3, workers=workers, seed=2
        )
        for workers in (0, 2)
    }


def test_random_episodes_of_any_suite_end_where_its_environments_or_its_horizon_end_them(stores):
    store = stores[0]
    assert store.tasks == list(TASKS)
    assert store.episode_length.tolist() == [length for length in LENGTHS for _ in range(3)]
    for index in range(store.num_episodes):
        episode = store.episode(index)
        length = len(episode.rewards)
        ends = {name: episode.columns[name] for name in ("terminated", "truncated")}
        assert not any(column[:-1].any() for column in ends.values())
        assert bool(ends["terminated"][-1]) == (episode.task == "short")
        assert bool(ends["truncated"][-1]) == (episode.task != "short")
        assert episode.observations[:, 1].tolist() == list(range(length + 1))
        np.testing.assert_allclose(
            episode.rewards, np.arange(1, length + 1) + episode.actions[:, 0], rtol=1e-6
        )
        if episode.task == "endless":
            assert episode.success is None
        else:
            assert episode.success.tolist() == [False] * (length - 1) + [episode.task == "short"]
    actions = np.concatenate([store.episode(index).actions for index in range(6, 9)])
    assert (actions >= LOW).all()
    assert (actions <= HIGH).all()
    np.testing.assert_allclose(actions.mean(0), (LOW + HIGH) / 2, atol=0.6)


def test_episodes_begin_where_their_seeds_say(stores, monkeypatch):
    env = SUITE.make("short")
    for index in range(3):
        seed = episode_seed(2, "short", index, "collection")
        assert np.array_equal(env.reset(seed=seed)[0], stores[0].episode(index).observations[0])
    assert episode_seeds(stores[0]) is None, "a suite that is not known may begin episodes as it likes"
    monkeypatch.setitem(registry._suites, "counting", SUITE)
    assert episode_seeds(stores[0])[1] == episode_seed(2, "short", 1, "collection")


def test_workers_collect_the_same_episodes_and_the_store_says_whose_they_are(stores):
    assert stores[0].fingerprint == stores[2].fingerprint
    for store in stores.values():
        (origin,) = store.provenance
        assert origin["suite"] == suite_of_store(store) == "counting"
        assert origin["source"] == origin["policy"] == "random"
        assert "metaworld" not in origin["packages"]


def test_scripted_episodes_are_the_suites_experts_with_exploration_that_ends(tmp_path):
    store = collect(["endless"], tmp_path / "s", suite=EXPERTS, episodes=8, workers=0)
    assert store.provenance[0]["policy"] == "scripted: the suite's own, with annealed exploration"
    last, first = store.episode(7), store.episode(0)
    np.testing.assert_allclose(last.actions[:, 0], 0.7)
    assert last.actions[:, 1].tolist() == [0, 1] * 10
    assert np.abs(first.actions[:, 0] - 0.7).mean() > 0.1
    assert (first.actions >= LOW).all()
    assert (first.actions <= HIGH).all()


def test_an_interrupted_collection_goes_on_in_any_suite(tmp_path, monkeypatch, stores):
    monkeypatch.setattr("goskill.rollouts.collection._LEAST_SHARD_EPISODES", 2)
    options = {"suite": SUITE, "policy": "random", "episodes": 3, "workers": 0, "seed": 2}

    def stop(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(None, tmp_path / "s", progress=stop, **options)
    assert EpisodeStore.open(tmp_path / "s").num_episodes == 4
    resumed = collect(None, tmp_path / "s", **options)
    for index in range(9):
        assert np.array_equal(resumed.episode(index).observations, stores[0].episode(index).observations)
    with pytest.raises(
        InputError, match=r"with policy 'random' where this collection has .scripted: the suite"
    ):
        collect(None, tmp_path / "s", suite=EXPERTS, episodes=3, workers=0, seed=2)


def not_a_number(task):
    env = counting_suite.CountingEnv(task)
    return gymnasium.wrappers.TransformReward(env, lambda reward: np.nan if reward > 3 else reward)


@pytest.mark.parametrize(
    ("suite", "arguments", "told"),
    [
        (SUITE, {"policy": "scripted"}, "policy: suite 'counting' has no scripted policies: expected random"),
        (
            SUITE,
            {"tasks": ["shrot"]},
            "task: expected a task of suite 'counting', got 'shrot'; did you mean 'short'",
        ),
        (
            GymnasiumSuite("nan", not_a_number, TASKS, max_steps=9),
            {"policy": "random"},
            r"task '\w+', episode 0: rewards: expected finite values, got nan at index \[\d\]",
        ),
    ],
)
def test_what_cannot_be_collected_is_refused_by_name(suite, arguments, told, tmp_path):
    with pytest.raises(InputError, match=told):
        collect(**{"tasks": None, "path": tmp_path / "s", "suite": suite, "workers": 0, **arguments})


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_takes_a_suites_own_horizon_ends_and_success(workers):
    results = evaluate(RandomPolicy(space=SUITE.action_space), TASKS, 3, suite=SUITE, seed=1, workers=workers)
    assert results.protocol.suite == "counting"
    assert results.protocol.max_steps == 20
    for task, length in zip(TASKS, LENGTHS, strict=True):
        assert results.episodes[task].length.tolist() == [length] * 3
    assert results.summary("short").success.value == 1.0
    assert results.summary("long").success.value == 0.0
    assert results.summary("endless").success is None
    assert "metaworld" not in results.versions


def test_a_suites_own_info_key_reports_success():
    counted = GymnasiumSuite(
        "half", counting_suite.CountingEnv, ["long"], max_steps=20, success_keys=["half"]
    )
    results = evaluate(RandomPolicy(space=SUITE.action_space), ["long"], 2, suite=counted, workers=0)
    assert results.summary("long").success.value == 1.0
    assert results.episodes["long"].success_step.tolist() == [1, 1]


def test_scripted_and_random_policies_begin_some_episodes_while_others_go_on():
    policy = ScriptedPolicy(EXPERTS)
    policy.reset(["short", "long"], {})
    policy.reset(["endless"], {}, rows=[1])
    np.testing.assert_allclose(policy.act(np.zeros((2, 3), np.float32))[:, 0], [0.5, 0.7])
    fresh, going = RandomPolicy(2), RandomPolicy(2)
    fresh.reset(["a", "a"], {}, seed=[4, 5])
    going.reset(["a", "a"], {}, seed=[3, 5])
    observations = np.zeros((2, 3), np.float32)
    going.act(observations)
    going.reset(["a"], {}, seed=[4], rows=[0])
    first, second = going.act(observations), (fresh.act(observations), fresh.act(observations))
    assert np.array_equal(first[0], second[0][0])
    assert np.array_equal(first[1], second[1][1])
    with pytest.raises(InputError, match="suite 'counting' has no scripted policy of task 'short'"):
        ScriptedPolicy(SUITE).reset(["short"], {})


@pytest.mark.parametrize(
    ("suite", "told"),
    [("mt11", "did you mean 'mt10'"), (SUITE, "task: expected a task of suite 'counting', got 'reach'")],
)
def test_unknown_suites_and_tasks_are_refused_before_anything_starts(suite, told):
    with pytest.raises(InputError, match=told):
        evaluate(RandomPolicy(2), ["reach"], 1, suite=suite)
