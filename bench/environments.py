"""MetaWorld's environments beside the stock package: one step, one reset, a pool of 50 tasks, its start.

Answers are compared before anything is timed. EnvPool, where it is installed, is here for its speed alone: it
follows an older MetaWorld whose numbers differ.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from goskill.envs import make, make_vec, tasks_of
from goskill.envs.metaworld.models import Models
from goskill.envs.metaworld.scripted import ScriptedExpert

TASKS = tasks_of("mt50")
SEED = 0
STEPS = 40
POOL_STEPS = 50
OBSERVATION_SPACE = gymnasium.spaces.Box(-np.inf, np.inf, (39,), np.float64)

STEP = "step of one environment, mean over 50 tasks"
RESET = "reset of one environment, mean over 50 tasks"
POOL = "pool of 50 tasks"
START = "start of a pool of 50 tasks"


def stock(task: str) -> Any:
    """The package's own environment of a task, with random objects and goals, goal visible."""
    env: Any = make(task, SEED, impl="stock")
    # Vector environments want the same space of all; the tasks' goals have different bounds.
    env.observation_space = OBSERVATION_SPACE
    return env


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Any, Any, list[Any]]]:
    """(fast, stock, scripted actions) of every task, after both gave the same answers to the actions."""
    found = []
    models = Models()
    for task in TASKS:
        fast, slow = make(task, SEED, impl="fast", models=models), stock(task)
        policy, actions = ScriptedExpert(task), []
        observation, _ = fast.reset(seed=SEED)
        np.testing.assert_array_equal(observation, slow.reset(seed=SEED)[0])
        for _ in range(STEPS):
            actions.append(policy(observation))
            ours, theirs = fast.step(actions[-1]), slow.step(actions[-1])
            np.testing.assert_array_equal(ours[0], theirs[0])
            assert ours[1:] == theirs[1:]
            observation = ours[0]
        found.append((fast, slow, actions))
    return found


def _prepared(pairs: list[Any], which: int) -> None:
    for pair in pairs:
        pair[which].reset(seed=SEED)


def _step_all(pairs: list[Any], which: int) -> None:
    for pair in pairs:
        step = pair[which].step
        for action in pair[2]:
            step(action)


def _physics(pairs: list[Any]) -> None:
    for fast, _, actions in pairs:
        for _ in actions:
            mujoco.mj_step(fast.model, fast.data, fast.frame_skip)
            mujoco.mj_forward(fast.model, fast.data)


def _rate(benchmark: Any, steps: int) -> None:
    rate = steps / benchmark.stats.stats.median
    benchmark.extra_info["environment_steps_per_second"] = round(rate)


def _seconds(work: Callable[[], Any]) -> float:
    begin = time.thread_time()
    work()
    return time.thread_time() - begin


def _speedups(pairs: list[Any]) -> dict[str, float]:
    """Times as fast as stock, by task: the best of several turns each, in processor time."""
    speedups = {}
    for task, pair in zip(TASKS, pairs, strict=True):
        best = [np.inf, np.inf]
        for _ in range(4):
            for which in (0, 1):
                _prepared([pair], which)
                best[which] = min(best[which], _seconds(lambda w=which, p=pair: _step_all([p], w)))
        speedups[task] = best[1] / best[0]
    return speedups


@pytest.mark.benchmark(group=STEP)
def test_stock_step(benchmark: Any, pairs: list[Any]) -> None:
    benchmark.extra_info["peer"] = True
    benchmark.pedantic(_step_all, (pairs, 1), setup=lambda: _prepared(pairs, 1), rounds=3)
    _rate(benchmark, len(TASKS) * STEPS)


@pytest.mark.benchmark(group=STEP)
def test_fast_step(benchmark: Any, pairs: list[Any]) -> None:
    speedups = _speedups(pairs)
    slowest = min(speedups, key=lambda task: speedups[task])
    benchmark.extra_info["mean_of_tasks"] = round(float(np.mean(list(speedups.values()))), 2)
    benchmark.extra_info["least"] = f"{slowest} {speedups[slowest]:.2f}x"
    benchmark.pedantic(_step_all, (pairs, 0), setup=lambda: _prepared(pairs, 0), rounds=3)
    _rate(benchmark, len(TASKS) * STEPS)


@pytest.mark.benchmark(group=STEP)
def test_physics_alone(benchmark: Any, pairs: list[Any]) -> None:
    """MuJoCo's share of a step without any Python around it: the floor."""
    benchmark.pedantic(_physics, (pairs,), setup=lambda: _prepared(pairs, 0), rounds=3)
    _rate(benchmark, len(TASKS) * STEPS)


@pytest.mark.benchmark(group=RESET)
@pytest.mark.parametrize("which", ["fast", "stock"])
def test_reset(benchmark: Any, pairs: list[Any], which: str) -> None:
    benchmark.extra_info["peer"] = which == "stock"
    environments = [pair[("fast", "stock").index(which)] for pair in pairs]
    benchmark.pedantic(lambda: [env.reset() for env in environments], rounds=3, warmup_rounds=1)


def _async() -> AsyncVectorEnv:
    return AsyncVectorEnv([partial(stock, task) for task in TASKS])


def _sync() -> SyncVectorEnv:
    return SyncVectorEnv([partial(stock, task) for task in TASKS])


def _ours() -> Any:
    return make_vec(TASKS)


POOLS: dict[str, Callable[[], Any]] = {"async_stock": _async, "sync_stock": _sync, "goskill": _ours}


@pytest.fixture(scope="module")
def pool_actions() -> Any:
    return np.random.default_rng(SEED).uniform(-1, 1, (POOL_STEPS, len(TASKS), 4)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(pool_actions: Any) -> Iterator[tuple[Any, Any]]:
    """Observations and rewards of a few steps, from Gymnasium's plain loop over stock environments."""
    environments = _sync()
    environments.reset(seed=SEED)
    results = [environments.step(action) for action in pool_actions[:3]]
    yield [result[0].copy() for result in results], [result[1].copy() for result in results]
    environments.close()


@pytest.mark.benchmark(group=POOL)
@pytest.mark.parametrize("name", POOLS)
def test_pool_step(benchmark: Any, name: str, pool_actions: Any, expected: tuple[Any, Any]) -> None:
    benchmark.extra_info["peer"] = name != "goskill"
    benchmark.extra_info["cores"] = len(os.sched_getaffinity(0))
    environments = POOLS[name]()
    try:
        environments.reset(seed=SEED)
        for action, observation, reward in zip(pool_actions, *expected, strict=False):
            answer = environments.step(action)
            np.testing.assert_array_equal(answer[0], observation)
            np.testing.assert_array_equal(answer[1], reward)
        benchmark.pedantic(lambda: [environments.step(action) for action in pool_actions], rounds=4)
    finally:
        environments.close()
    _rate(benchmark, len(TASKS) * POOL_STEPS)


@pytest.mark.benchmark(group=POOL)
def test_envpool_step(benchmark: Any, pool_actions: Any) -> None:
    """EnvPool, for orientation: pools of one task each, ten environments, over five tasks."""
    try:
        import envpool
    except ImportError as problem:
        pytest.skip(
            f"EnvPool, `pip install envpool` (Python 3.11 and later, 1 GB with its assets): {problem}"
        )
    tasks = ["Reach", "Push", "PickPlace", "DoorOpen", "ButtonPress"]
    chosen = [f"MetaWorld/{task}-v3" for task in tasks]
    threads = len(os.sched_getaffinity(0))
    pools = [envpool.make_gymnasium(name, num_envs=10, num_threads=threads, seed=SEED) for name in chosen]
    kind = pools[0].action_space.dtype
    for pool in pools:
        pool.reset()

    def step() -> None:
        for action in pool_actions:
            for index, pool in enumerate(pools):
                pool.step(action[10 * index : 10 * index + 10].astype(kind))

    benchmark.extra_info["peer"] = True
    benchmark.extra_info["version"] = version("envpool")
    benchmark.extra_info["note"] = "follows metaworld 3.0.0: other numbers; five tasks"
    benchmark.pedantic(step, rounds=4)
    _rate(benchmark, len(TASKS) * POOL_STEPS)


@pytest.mark.benchmark(group=START)
@pytest.mark.parametrize("name", ["async_stock", "goskill"])
def test_start(benchmark: Any, name: str) -> None:
    """From nothing to the first observations. Compiled models are on disk from an earlier start."""
    benchmark.extra_info["peer"] = name != "goskill"
    if name == "goskill":
        environments = _ours()
        environments.reset(seed=SEED)
        environments.close()

    def start() -> None:
        environments = POOLS[name]()
        environments.reset(seed=SEED)
        opened.append(environments)

    def close() -> None:
        while opened:
            opened.pop().close()

    opened: list[Any] = []
    benchmark.pedantic(start, setup=close, rounds=3)
    close()
