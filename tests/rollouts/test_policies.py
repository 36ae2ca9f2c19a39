"""The ceiling and the floor, in MetaWorld itself."""

from __future__ import annotations

import numpy as np
import pytest
from metaworld.policies import ENV_POLICY_MAP

from goskill.envs import episode_seed, make
from goskill.envs.metaworld.scripted import ScriptedExpert
from goskill.errors import InputError
from goskill.rollouts import Policy, RandomPolicy, ScriptedPolicy, evaluate

TASKS = ["door-close", "reach"]


def test_both_are_policies() -> None:
    assert isinstance(ScriptedPolicy(), Policy)
    assert isinstance(RandomPolicy(), Policy)


def test_experts_reach_the_ceiling_and_random_actions_do_not() -> None:
    expert = evaluate(ScriptedPolicy(), TASKS, 2, max_steps=120, workers=0)
    random = evaluate(RandomPolicy(), TASKS, 2, max_steps=120, workers=0)
    assert expert.policy == "scripted"
    assert random.policy == "random"
    assert expert.overall.success.value == 1.0
    assert random.overall.success.value < 1.0
    assert expert.overall.returns.value > 3 * random.overall.returns.value


def test_an_evaluated_episode_is_the_one_played_by_hand() -> None:
    results = evaluate(ScriptedPolicy(), TASKS, 2, seed=11, max_steps=60, workers=0)
    environment = make("reach")
    expert = ENV_POLICY_MAP["reach-v3"]()
    observation, _ = environment.reset(seed=episode_seed(11, "reach", 1))
    total, first = 0.0, -1
    for step in range(1, 61):
        action = np.clip(expert.get_action(observation.astype(np.float32).astype(np.float64)), -1, 1).astype(
            np.float32
        )
        observation, reward, _, _, info = environment.step(action)
        total += float(reward)
        if info["success"] and first < 0:
            first = step
    assert results.episodes["reach"].returns[1] == pytest.approx(total, rel=1e-12)
    assert results.episodes["reach"].success_step[1] == first


@pytest.mark.parametrize("variation", [{"workers": 1}, {"workers": 2}, {"batch": 1, "workers": 0}])
def test_results_are_a_function_of_policy_tasks_episodes_and_seed(variation) -> None:
    settings = {"tasks": TASKS, "episodes": 2, "seed": 4, "max_steps": 15}
    expected = evaluate(RandomPolicy(), **settings, workers=0)
    found = evaluate(RandomPolicy(), **settings, **variation)
    for task in TASKS:
        np.testing.assert_array_equal(found.episodes[task].returns, expected.episodes[task].returns)
        np.testing.assert_array_equal(found.episodes[task].seed, expected.episodes[task].seed)


def test_random_actions_are_uniform_and_belong_to_their_seed() -> None:
    policy = RandomPolicy()
    observations = np.zeros((3, 39), np.float32)
    policy.reset(["reach"] * 3, {}, seed=[5, 6, 2**63 - 1])
    first = np.array([policy.act(observations) for _ in range(400)])
    assert first.shape == (400, 3, 4)
    assert first.dtype == np.float32
    assert np.abs(first).max() <= 1
    np.testing.assert_allclose(first.mean((0, 2)), 0, atol=5 * np.sqrt(1 / 3 / 1600))
    np.testing.assert_allclose(first.var((0, 2)), 1 / 3, atol=0.05)
    policy.reset(["push"], {}, seed=[6])
    np.testing.assert_array_equal(policy.act(observations[:1])[0], first[0, 1])


def test_one_seed_gives_each_environment_a_stream_of_its_own() -> None:
    policy = RandomPolicy()
    policy.reset(["reach"] * 4, {}, seed=5)
    actions = policy.act(np.zeros((4, 39), np.float32))
    assert len(np.unique(actions)) == actions.size


def test_evaluation_and_collection_have_the_same_expert() -> None:
    policy = ScriptedPolicy()
    policy.reset(TASKS, {})
    observations = np.random.default_rng(0).uniform(-1, 1, (2, 39)).astype(np.float32)
    actions = policy.act(observations)
    assert actions.dtype == np.float32
    for task, observation, action in zip(TASKS, observations, actions, strict=True):
        np.testing.assert_array_equal(action, ScriptedExpert(task)(observation.astype(np.float64)))


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(InputError, match="walk"):
        ScriptedPolicy().reset(["walk"], {}, seed=0)
