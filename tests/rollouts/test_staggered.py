"""Resetting some environments while others go on gives the actions of policies that began on their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_store import TASKS, episode, small_prompt_dt, small_settings, small_store

from goskill.errors import InputError
from goskill.methods.go_skill import GoSkill
from goskill.methods.prompt_dt import PromptDT
from goskill.rollouts import RandomPolicy
from goskill.rollouts.staggered import StaggeredPolicy
from goskill.training import TrainingSettings

PROMPTS = {task: [episode(index, 20, 0.1)] for index, task in enumerate(TASKS)}


def make(name: str, path: Path):
    store = small_store(path / "store")
    if name == "go_skill":
        return GoSkill(small_settings(dropout=0.0), store, TrainingSettings())
    return PromptDT(small_prompt_dt(dropout=0.0), store, TrainingSettings())


@pytest.mark.parametrize("name", ["go_skill", "prompt_dt"])
def test_episodes_that_begin_at_different_times_are_each_as_alone(name: str, tmp_path: Path) -> None:
    method = make(name, tmp_path)
    policy = StaggeredPolicy(method.policy(), PROMPTS)
    starts = {0: [0, 7], 1: [0], 2: [0, 3, 7]}  # steps at which each environment begins an episode
    tasks = [TASKS[0], TASKS[1], TASKS[0]]
    random = np.random.default_rng(0)
    observations = random.normal(size=(12, 3, 6)).astype(np.float32)
    rewards = random.normal(size=(12, 3))
    found = np.zeros((12, 3, 2), np.float32)
    for step in range(12):
        rows = [row for row in range(3) if step in starts[row]]
        if step == 0:
            policy.reset(tasks, seed=[0, 1, 2])
        elif rows:
            policy.reset([tasks[row] for row in rows], seed=[row + 10 * step for row in rows], rows=rows)
        found[step] = policy.act(observations[step])
        policy.observe(rewards[step])
    for row, begins in starts.items():
        for start, end in zip(begins, [*begins[1:], 12], strict=True):
            alone = method.policy()
            alone.reset([tasks[row]], PROMPTS, [row + 10 * start])
            for step in range(start, end):
                expected = alone.act(observations[step, row : row + 1])[0]
                np.testing.assert_allclose(found[step, row], expected, rtol=1e-4, atol=1e-5)
                alone.observe(rewards[step, row : row + 1])


@pytest.mark.parametrize("staggered", [True, False])
@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([0.0, np.nan], "rewards: expected finite numbers, got nan from environment 1"),
        ([np.inf, 0.0], "rewards: expected finite numbers, got inf from environment 0"),
        ([0.5], r"rewards: expected shape \(2,\) as reset, got \(1,\)"),
        ([0.5, 0.5, 0.5], r"rewards: expected shape \(2,\) as reset, got \(3,\)"),
        ([[0.5], [0.5]], r"rewards: expected shape \(2,\) as reset, got \(2, 1\)"),
    ],
)
def test_rewards_that_would_spoil_the_return_to_go_are_refused(
    staggered: bool, rewards: list, message: str, tmp_path: Path
) -> None:
    policy = make("prompt_dt", tmp_path).policy()
    policy = StaggeredPolicy(policy) if staggered else policy
    policy.reset([TASKS[0]] * 2, PROMPTS)
    policy.act(np.zeros((2, 6), np.float32))
    with pytest.raises(InputError, match=message):
        policy.observe(rewards)


def test_cohorts_that_all_have_left_are_dropped(tmp_path: Path) -> None:
    policy = StaggeredPolicy(make("prompt_dt", tmp_path).policy(), PROMPTS)
    policy.reset([TASKS[0]] * 2)
    for _ in range(5):
        policy.reset([TASKS[1]], rows=[0])
        policy.reset([TASKS[1]], rows=[1])
    assert len(policy._cohorts) == 2


def test_wrong_rows_are_named(tmp_path: Path) -> None:
    policy = StaggeredPolicy(make("prompt_dt", tmp_path).policy(), PROMPTS)
    with pytest.raises(InputError, match="expected a reset before the first action"):
        policy.act(np.zeros((0, 6), np.float32))
    policy.reset([TASKS[0]] * 2)
    for rows in ([0, 0], [2], [-1], [0, 1, 2]):
        with pytest.raises(InputError, match="rows: expected"):
            policy.reset([TASKS[0]] * len(rows), rows=rows)
    with pytest.raises(InputError, match="observations: expected 2 rows as reset, got 3"):
        policy.act(np.zeros((3, 6), np.float32))
    together = StaggeredPolicy(RandomPolicy(2))
    together.reset(["a", "b"])
    with pytest.raises(InputError, match="rows: expected None, random begins all its episodes together"):
        together.reset(["a"], rows=[0])
