"""Suites whose every number can be worked out by hand, in a module that worker processes can import."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from goskill.envs import GymnasiumSuite, Suite

TASKS = ("short", "long", "endless")
ENDS = {"short": 3, "long": 5, "endless": 10**6}
LOW, HIGH = np.array([-2.0, 0.0], np.float32), np.array([3.0, 1.0], np.float32)


class TwoWordsError(Exception):
    """One that pickle takes apart but cannot make again."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


class CountingEnv(gymnasium.Env[Any, Any]):
    """Observation (random number of the episode, step, action); "short" terminates, "long" is truncated."""

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 7}  # noqa: RUF012

    def __init__(self, task: str, render_mode: str | None = None) -> None:
        self.task = task
        self.render_mode = render_mode
        bound = float(len(task)) * 100
        self.observation_space = Box(-bound, bound, (3,), np.float32)
        self.action_space = Box(LOW, HIGH, dtype=np.float32)

    def _observation(self, action: float) -> np.ndarray:
        return np.array([self.number, self.count, action], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.number = self.np_random.random()
        self.count = 0
        return self._observation(0.0), {"begun": True, "options": str(options)}

    def step(self, action: np.ndarray) -> Any:
        self.count += 1
        over = self.count >= ENDS[self.task]
        info: dict[str, Any] = {
            "count": self.count,
            "half": self.count / 2,
            "where": {"x": np.ones(2) * self.count},
        }
        if self.count % 2:
            info["odd"] = "yes"
        if over:
            info["is_success"] = self.task == "short"
        reward = self.count + float(action[0])
        return (
            self._observation(action[1]),
            reward,
            over and self.task == "short",
            over and self.task == "long",
            info,
        )

    def render(self) -> Any:
        return np.full((4, 6, 3), 4 * self.count, np.uint8)

    def double(self, number: int, plus: int = 0) -> int:
        return 2 * number + plus

    def refuse(self, only: str, error: type[Exception], *arguments: Any) -> str:
        if self.task == only:
            raise error(*arguments)
        return self.task

    def closure(self) -> Any:
        return lambda: self


suite = GymnasiumSuite("counting", CountingEnv, TASKS, max_steps=20)
lambdas = GymnasiumSuite("lambdas", lambda task: CountingEnv(task), TASKS, max_steps=20)


class Together(Suite):
    """The same numbers from one object for all environments, without infos but ``count`` and ``is_success``."""

    name = "together"
    tasks = TASKS
    observation_dim = 3
    action_dim = 2
    max_steps = 20
    info_keys = ("count", "is_success")
    action_space = Box(LOW, HIGH, dtype=np.float32)

    def make(self, task: str, seed: int | None = None, *, render_mode: str | None = None) -> CountingEnv:
        return CountingEnv(task)

    def make_batch(self, tasks: Any, **options: Any) -> Batch:
        return Batch(tasks)


class Batch:
    def __init__(self, tasks: Any) -> None:
        self.tasks = tasks
        self.ends = np.array([ENDS[task] for task in tasks])
        self.count = np.zeros(len(tasks), np.int64)
        self.number = np.zeros(len(tasks))
        self.streams = [np.random.default_rng() for _ in tasks]

    def reset(self, rows: np.ndarray, seeds: Any) -> np.ndarray:
        for row, seed in zip(rows, seeds, strict=True):
            if seed is not None:
                self.streams[row] = np.random.Generator(np.random.PCG64(seed))
            self.number[row] = self.streams[row].random()
        self.count[rows] = 0
        return np.stack([self.number[rows], self.count[rows], np.zeros(len(rows))], 1)

    def step(self, rows: np.ndarray, actions: np.ndarray) -> Any:
        self.count[rows] += 1
        over = self.count[rows] >= self.ends[rows]
        short = np.array([self.tasks[row] == "short" for row in rows])
        observations = np.stack([self.number[rows], self.count[rows], actions[:, 1]], 1)
        infos = {"count": self.count[rows], "is_success": over & short}
        return observations, self.count[rows] + actions[:, 0], over & short, over & ~short, infos

    def close(self) -> None:
        pass


class Broken(gymnasium.Env[Any, Any]):
    """Says one thing and does another."""

    def __init__(self, task: str) -> None:
        self.task = task
        size = 4 if task == "larger" else 3
        self.observation_space = Box(-1.0, 1.0, (size,), np.float32)
        self.action_space = Box(-1.0, 2.0 if task == "wider" else 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(1 if self.task == "scalar" else 3, np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        raise ValueError("out of order")


broken = GymnasiumSuite("broken", Broken, ("good", "larger", "wider", "scalar", "raising"), max_steps=5)
