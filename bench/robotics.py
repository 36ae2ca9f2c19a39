"""Mazes and kitchens beside gymnasium-robotics' in Gymnasium's AsyncVectorEnv, and what the scripted data is worth.

Answers are compared before anything is timed. Pairs are timed in turn, since both pools want every core.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from typing import Any

import mujoco
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv

from goskill.envs import make_vec
from goskill.envs.jobs import in_order
from goskill.envs.kitchen import make as make_kitchen
from goskill.envs.kitchen.simulation import SUBSTEPS, KitchenSimulation
from goskill.envs.maze import maze_task
from goskill.envs.maze.simulation import PointMasses
from goskill.envs.suite_processes import packed
from goskill.envs.suite_registry import find_suite

MAZES, KITCHENS = 16, 4
MAZE_STEPS, KITCHEN_STEPS = 200, 20
EPISODES = 200
MAZE, KITCHEN = "maze-r12-c07", "kitchen-any-mkls"

MAZE_POOL = f"pool of {MAZES} mazes"
KITCHEN_POOL = f"pool of {KITCHENS} kitchens"
ONE_KITCHEN = "step of one kitchen"
SCRIPTED = "scripted kitchen sequences of 4 sub-tasks"


def stock_maze() -> Any:
    from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv

    walls = maze_task(MAZE).layout.walls
    return PointMazeEnv(maze_map=walls.astype(int).tolist(), continuing_task=False)


def stock_kitchen() -> Any:
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import KitchenEnv

    subtasks = ["microwave", "kettle", "light switch", "slide cabinet"]
    return KitchenEnv(subtasks, robot_noise_ratio=0.1)


def forces(rows: int, steps: int, dimensions: int) -> Any:
    held = np.random.default_rng(0).uniform(-1, 1, (-(-steps // 20), rows, dimensions)).astype(np.float32)
    return np.repeat(held, 20, 0)[:steps]


def in_turn(
    benchmark: Any, ours: Callable[[], None], others: dict[str, Callable[[], None]], turns: int
) -> None:
    """Medians of turns each; the facts say how many times as fast ours is. The benchmark then times ours alone."""
    seconds: dict[str, list[float]] = {name: [] for name in ("", *others)}
    for _ in range(turns):
        for name, work in (("", ours), *others.items()):
            begin = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - begin)
    own = np.median(seconds.pop(""))
    facts = {name: round(float(np.median(taken) / own), 2) for name, taken in seconds.items()}
    benchmark.extra_info["in_turn"] = facts
    benchmark.extra_info["cores"] = len(os.sched_getaffinity(0))
    benchmark.extra_info["gymnasium-robotics"] = version("gymnasium-robotics")
    benchmark.pedantic(ours, rounds=turns)


def per_second(benchmark: Any, steps: int) -> None:
    benchmark.extra_info["environment_steps_per_second"] = round(steps / benchmark.stats.stats.median)


@pytest.fixture
def async_mazes() -> Iterator[Any]:
    environments = AsyncVectorEnv([stock_maze] * MAZES)
    environments.reset(seed=0)
    yield environments
    environments.close()


@pytest.fixture
def async_kitchens() -> Iterator[Any]:
    environments = AsyncVectorEnv([stock_kitchen] * KITCHENS)
    environments.reset(seed=0)
    yield environments
    environments.close()


def compare_mazes() -> None:
    """One step of each, from the same states on a way with many walls."""
    theirs, layout = stock_maze(), maze_task(MAZE).layout
    theirs.reset(seed=0)
    ours = PointMasses(layout)
    to_rows = np.array([[0.0, -1.0], [1.0, 0.0]])
    shift = np.array(layout.walls.shape) / 2 - 0.7
    for (force,) in forces(1, 400, 2):
        point = theirs.point_env.data
        before = np.concatenate([to_rows @ point.qpos + shift, to_rows @ point.qvel])
        expected = theirs.step(force)[0]["observation"]
        (after,) = ours.step(before[None], (to_rows @ force)[None])
        np.testing.assert_allclose(after[:2], to_rows @ expected[:2] + shift, rtol=0, atol=1e-9)


@pytest.mark.benchmark(group=MAZE_POOL)
@pytest.mark.parametrize("workers", [0, 2])
def test_maze_pool(benchmark: Any, async_mazes: Any, workers: int) -> None:
    compare_mazes()
    with make_vec(MAZE, MAZES, suite="maze", workers=workers) as pool:
        pool.reset(seed=0)
        chosen = forces(MAZES, MAZE_STEPS, 2)

        def step(environments: Any) -> None:
            for actions in chosen:
                environments.step(actions)

        others = {"AsyncVectorEnv of gymnasium-robotics": partial(step, async_mazes)}
        in_turn(benchmark, partial(step, pool), others, 5)
        per_second(benchmark, MAZES * MAZE_STEPS)


def controls_of_kitchens(actions: Any) -> list[list[Any]]:
    """What MuJoCo is told by kitchens of seeds 0, 1, ... that carry out ``actions`` [steps, kitchens, 9]."""
    found = []
    for seed in range(KITCHENS):
        kitchen = make_kitchen(KITCHEN)
        kitchen.reset(seed=seed)
        controls = []
        for action in actions[:, seed]:
            kitchen.step(action)
            controls.append(kitchen.simulation.data.ctrl.copy())
        found.append(controls)
    return found


def physics_of_kitchens(threads: int, controls: list[list[Any]], *, lockstep: bool) -> Callable[[], None]:
    """Steps of MuJoCo with these controls of each kitchen, and nothing around them, in threads.

    ``lockstep``: all kitchens take a step before one takes the next, as those of any vector environment do.
    """
    simulations = [KitchenSimulation(0.1, 0.0005) for _ in controls]
    barrier = threading.Barrier(threads)

    def work(first: int) -> None:
        own = list(zip(simulations[first::threads], controls[first::threads], strict=True))
        for simulation, _ in own:
            simulation.reset(np.random.default_rng(0))
        for step in range(len(controls[0])):
            for simulation, told in own:
                simulation.data.ctrl[:] = told[step]
                mujoco.mj_step(simulation.model, simulation.data, SUBSTEPS)
            if lockstep:
                barrier.wait()

    def step() -> None:
        running = [threading.Thread(target=work, args=(first,)) for first in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()

    return step


@pytest.mark.benchmark(group=KITCHEN_POOL)
def test_kitchen_pool(benchmark: Any, async_kitchens: Any) -> None:
    """A pool of two workers beside the stock one and MuJoCo alone in two threads, the same actions for all."""
    chosen = forces(KITCHENS, KITCHEN_STEPS, 9)
    with make_vec(KITCHEN, KITCHENS, suite="kitchen", workers=2) as pool:
        first, _ = pool.reset(seed=0)
        stock, _ = async_kitchens.reset(seed=0)
        np.testing.assert_array_equal(first, stock["observation"])
        for actions in forces(KITCHENS, 5, 9):
            stepped = async_kitchens.step(actions)
            np.testing.assert_array_equal(pool.step(actions)[0], stepped[0]["observation"])

        def step(environments: Any) -> None:
            environments.reset(seed=0)
            for actions in chosen:
                environments.step(actions)

        controls = controls_of_kitchens(chosen)
        others = {
            "AsyncVectorEnv of gymnasium-robotics": partial(step, async_kitchens),
            "physics alone, two threads": physics_of_kitchens(2, controls, lockstep=False),
            "physics alone, two threads in lockstep": physics_of_kitchens(2, controls, lockstep=True),
        }
        in_turn(benchmark, partial(step, pool), others, 7)
        per_second(benchmark, KITCHENS * KITCHEN_STEPS)


@pytest.mark.benchmark(group=ONE_KITCHEN)
def test_one_kitchen(benchmark: Any) -> None:
    """One environment beside the stock one and MuJoCo alone, the same actions for all."""
    ours, theirs, alone = make_kitchen(KITCHEN), stock_kitchen(), KitchenSimulation(0.1, 0.0005)
    chosen = forces(1, 5 * KITCHEN_STEPS, 9)[:, 0]

    def step(env: Any) -> None:
        env.reset(seed=0)
        for action in chosen:
            env.step(action)

    controls = []
    ours.reset(seed=0)
    for action in chosen:
        ours.step(action)
        controls.append(ours.simulation.data.ctrl.copy())

    def physics() -> None:
        alone.reset(np.random.default_rng(0))
        for control in controls:
            alone.data.ctrl[:] = control
            mujoco.mj_step(alone.model, alone.data, SUBSTEPS)

    others = {"gymnasium-robotics": partial(step, theirs), "physics alone": physics}
    in_turn(benchmark, partial(step, ours), others, 7)
    np.testing.assert_array_equal(ours.simulation.data.qpos, alone.data.qpos)
    np.testing.assert_array_equal(ours.simulation.data.qpos, theirs.data.qpos)
    per_second(benchmark, len(chosen))


@pytest.mark.benchmark(group=SCRIPTED)
def test_scripted_kitchen_sequences(benchmark: Any) -> None:
    """How many episodes of play do their four sub-tasks in random order, within 280 steps."""
    jobs = [("kitchen-play", number) for number in range(EPISODES)]

    def collect() -> None:
        arguments = (packed(find_suite("kitchen")), "scripted", {}, EPISODES, 0)
        for episode in in_order(jobs, 2, "worker", "goskill.rollouts.collection:serve", arguments):
            complete.append(bool(episode.success[-1]))
            lengths.append(len(episode.actions))
            actions.append(np.abs(episode.actions[:, :7]))

    complete: list[bool] = []
    lengths: list[int] = []
    actions: list[Any] = []
    benchmark.pedantic(collect, rounds=1)
    size = np.concatenate(actions)
    benchmark.extra_info.update(
        complete=sum(complete),
        episodes=len(complete),
        mean_steps=round(float(np.mean(lengths)), 1),
        mean_size_of_actions=round(float(size.mean()), 2),
        steps_with_an_action_at_its_limit=round(float((size > 0.99).any(1).mean()), 2),
    )
    assert sum(complete) >= 0.9 * len(complete)
