"""Acting with caches equals recomputing everything, whatever the shapes of networks, prompts, batches and episodes.

Heads of 16 numbers run on the native cache of the CPU, heads of 8 on torch's operations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import test_go_skill_acting
import test_prompt_dt_acting
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_store import OBSERVATION, episode

from goskill.methods.go_skill import GoSkillPolicy
from goskill.methods.prompt_dt import PromptDTPolicy
from goskill.methods.sequence.acting import PromptedPolicy
from goskill.rollouts.policy import Demonstration

TASKS = test_prompt_dt_acting.TASKS
sizes = st.integers(1, 4)
demonstrations = st.lists(st.integers(1, 30), min_size=3, max_size=3).map(
    lambda lengths: {
        task: [episode(place, steps, 0.3)]
        for place, (task, steps) in enumerate(zip(TASKS, lengths, strict=True))
    }
)


def play(
    policy: PromptedPolicy, tasks: list[str], shown: dict[str, list[Demonstration]], steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations, actions and rewards [steps, len(tasks), ...] of one episode in each environment."""
    random = np.random.default_rng(steps)
    observations = random.normal(size=(steps, len(tasks), OBSERVATION)).astype(np.float32)
    rewards = random.uniform(0, 1, size=(steps, len(tasks))).astype(np.float32)
    policy.reset(tasks, shown)
    actions = []
    for seen, paid in zip(observations, rewards, strict=True):
        actions.append(policy.act(seen))
        policy.observe(paid)
    return observations, np.stack(actions), rewards


def assert_equal_to(plain: Any, observations: np.ndarray, actions: np.ndarray, rewards: np.ndarray) -> None:
    """One environment's episode, step by step."""
    for seen, action, paid in zip(observations, actions, rewards, strict=True):
        with torch.no_grad():
            np.testing.assert_allclose(action, plain.act(seen), rtol=0, atol=1e-5)
        plain.rewards.append(float(paid))


def target_of(shown: Demonstration) -> float:
    return float(shown.rewards.astype(np.float64).sum())


@settings(max_examples=25, deadline=None)
@given(
    variant=st.sampled_from(["default", "multi-head", "no-reached-goal", "no-vq", "policy-table"]),
    width=st.sampled_from([16, 32]),
    horizon=st.integers(1, 7),
    context=st.integers(1, 6),
    prompt_length=st.integers(0, 4),
    shown=demonstrations,
    tasks=st.lists(st.sampled_from(TASKS), min_size=1, max_size=5),
    chunk=sizes,
    episodes=st.lists(st.integers(1, 38), min_size=1, max_size=2),
)
def test_go_skill(variant, width, horizon, context, prompt_length, shown, tasks, chunk, episodes) -> None:
    changes = {
        **test_go_skill_acting.VARIANTS[variant],
        **{"decoder_width": width, "policy_width": width, "horizon": horizon, "context": context},
        "prompt_length": prompt_length,
    }
    policy = GoSkillPolicy(test_go_skill_acting.make_networks(**changes), chunk=chunk)
    for steps in episodes:
        played = play(policy, tasks, shown, steps)
    assert policy._groups[0]._cache.native == (width == 32)
    networks = test_go_skill_acting.make_networks(**changes)
    for row, task in enumerate(tasks):
        plain = test_go_skill_acting.PlainPolicy(networks, shown[task][0], target_of(shown[task][0]))
        assert_equal_to(plain, *(values[:, row] for values in played))
        if networks.settings.discrete:
            assert policy.skill_history[:, row].tolist() == [int(skill) for skill in plain.skills]


@settings(max_examples=25, deadline=None)
@given(
    variant=st.sampled_from(["Prompt-DT", "MTDT with task identity", "everything"]),
    width=st.sampled_from([16, 32]),
    context=st.integers(1, 6),
    prompt_length=st.integers(1, 4),
    shown=demonstrations,
    tasks=st.lists(st.sampled_from(TASKS), min_size=1, max_size=5),
    chunk=sizes,
    episodes=st.lists(st.integers(1, 20), min_size=1, max_size=2),
)
def test_prompt_dt(variant, width, context, prompt_length, shown, tasks, chunk, episodes) -> None:
    changes = {
        **{"width": width, "context": context, "prompt_length": prompt_length},
        **test_prompt_dt_acting.VARIANTS[variant],
    }
    policy = PromptDTPolicy(test_prompt_dt_acting.make_networks(**changes), chunk=chunk)
    for steps in episodes:
        played = play(policy, tasks, shown, steps)
    assert policy._groups[0]._context._cache.native == (width == 32)
    networks = test_prompt_dt_acting.make_networks(**changes)
    for row, task in enumerate(tasks):
        plain = test_prompt_dt_acting.PlainPolicy(networks, task, shown[task][0], target_of(shown[task][0]))
        assert_equal_to(plain, *(values[:, row] for values in played))
