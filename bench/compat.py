"""The stand-ins for batch functions of Prompt-DT training code beside the way that code works."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from goskill.bench.peers.released import ReleasedBatches
from goskill.compat.prompt_dt import get_batch_for_skill, get_prompt_batch

CONTEXT, PROMPT, PER_TASK = 20, 5, 8
TASKS = [f"task-{i:02d}" for i in range(50)]
STEPS, EPISODES = 500, 20
KEYS = ["observations", "actions", "return_to_gos", "timesteps"]
SKILLS, HORIZON, SKILL_KEYS = 16, 10, ["observations", "next_observations", "actions"]


@pytest.fixture(scope="module")
def trajectories() -> tuple[list, dict]:
    """What such training code holds: lists of dicts, and ``info``."""
    generator = np.random.default_rng(0)
    lists, info = [], {}
    for index, task in enumerate(TASKS):
        lists.append(
            [
                {
                    "observations": generator.standard_normal((STEPS, 39), dtype=np.float32),
                    "next_observations": generator.standard_normal((STEPS, 39), dtype=np.float32),
                    "actions": generator.standard_normal((STEPS, 4), dtype=np.float32),
                    "rewards": generator.random((STEPS, 1), dtype=np.float32),
                    "rtgs": generator.random(STEPS, dtype=np.float32),
                }
                for _ in range(EPISODES)
            ]
        )
        moments = {"state_mean": np.full(39, 0.1, np.float32), "state_std": np.full(39, 1.5, np.float32)}
        shares = {"p_sample": np.full(EPISODES, 1 / EPISODES), "sorted_inds": np.arange(EPISODES)}
        info[task] = {**moments, **shares, "scale": 1000.0, "device": "cpu", "task_idx": index}
    return lists, info


@pytest.mark.benchmark(group="prompt_dt: 400 windows of 20 steps behind prompts of 5")
def test_windows_goskill(benchmark, trajectories: tuple[list, dict]) -> None:
    lists, info = trajectories
    draw = get_prompt_batch(lists, None, info, TASKS, True, False, KEYS)
    chosen = np.arange(PER_TASK)
    _, batch = draw(PER_TASK, CONTEXT, 1, PROMPT, l_blank=CONTEXT - 1, trajectory_ids=chosen)
    starts = (batch[-2][:, -1] - (CONTEXT - 1)).reshape(len(TASKS), -1).tolist()
    peer = ReleasedBatches(lists, info, TASKS, KEYS)
    for ours, theirs in zip(
        batch, peer.windows([(chosen, of_task) for of_task in starts], CONTEXT), strict=True
    ):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    benchmark.pedantic(
        lambda: draw(PER_TASK, CONTEXT, 1, PROMPT, l_blank=CONTEXT - 1),
        rounds=100,
        iterations=1,
        warmup_rounds=10,
    )


@pytest.mark.benchmark(group="prompt_dt: 400 windows of 20 steps behind prompts of 5")
def test_windows_released_way(benchmark, trajectories: tuple[list, dict]) -> None:
    benchmark.extra_info["peer"] = True
    peer = ReleasedBatches(*trajectories, TASKS, KEYS)

    def draw() -> None:
        peer.ends(PER_TASK, PROMPT)
        peer.draw(PER_TASK, CONTEXT, left=CONTEXT - 1)

    benchmark.pedantic(draw, rounds=20, iterations=1, warmup_rounds=2)


@pytest.fixture(scope="module")
def samples() -> dict[int, np.ndarray]:
    """Where each skill occurs: (task, trajectory, first step)."""
    generator = np.random.default_rng(1)
    sizes = (len(TASKS), EPISODES, STEPS)
    return {
        skill: np.stack([generator.integers(0, size, 20_000) for size in sizes], axis=1)
        for skill in range(SKILLS)
    }


@pytest.mark.benchmark(group="prompt_dt: 800 windows of 10 steps, balanced over skills")
def test_skills_goskill(benchmark, trajectories: tuple[list, dict], samples: dict[int, np.ndarray]) -> None:
    lists, info = trajectories
    draw = get_batch_for_skill(lists, None, info, TASKS, None, False, SKILL_KEYS, skill_index_in_data=samples)
    np.random.seed(0)
    _, batch = draw(16, HORIZON)
    np.random.seed(0)
    for ours, theirs in zip(batch, released_by_skill(lists, info, samples), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    benchmark.pedantic(lambda: draw(16, HORIZON), rounds=100, iterations=1, warmup_rounds=10)


@pytest.mark.benchmark(group="prompt_dt: 800 windows of 10 steps, balanced over skills")
def test_skills_released_way(
    benchmark, trajectories: tuple[list, dict], samples: dict[int, np.ndarray]
) -> None:
    benchmark.extra_info["peer"] = True
    benchmark.pedantic(released_by_skill, (*trajectories, samples), rounds=20, iterations=1, warmup_rounds=2)


def released_by_skill(lists: list, info: dict, samples: dict[int, np.ndarray]) -> list:
    """The same number of windows of every skill, gathered by task within each."""
    peer = ReleasedBatches(lists, info, TASKS, SKILL_KEYS)
    size = 16 * len(TASKS) // len(samples)
    batches = []
    for rows in samples.values():
        chosen = rows[np.random.choice(len(rows), size=size, replace=True)]
        of_tasks = [chosen[chosen[:, 0] == task] for task in range(len(TASKS))]
        batches += [
            peer.of_task(task, found[:, 1], found[:, 2], HORIZON)
            for task, found in enumerate(of_tasks)
            if len(found)
        ]
    return [torch.cat(tensors, dim=0) for tensors in zip(*batches, strict=True)]
