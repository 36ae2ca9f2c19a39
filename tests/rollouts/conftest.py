"""A world whose every number can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest

OBSERVATION_DIM = 3


class CountingEnv(gymnasium.Env[Any, Any]):
    """Observation (seed mod 1000, step, 0); pays first action + step; success at steps 3 to 5."""

    def __init__(self, task: str, last_step: int) -> None:
        self.task = task
        self.last_step = last_step
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def _observation(self) -> np.ndarray:
        return np.array([self.tag, self.count, 0.0])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.tag = (seed or 0) % 1000
        self.count = 0
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        success = 3 <= self.count <= 5 and self.task != "push"
        reward = float(action[0]) + self.count
        return self._observation(), reward, False, self.count >= self.last_step, {"success": float(success)}


class World:
    """Makes vector environments and remembers them."""

    def __init__(self, last_step: int = 1_000) -> None:
        self.last_step = last_step
        self.made: list[list[str]] = []

    def __call__(self, tasks: Sequence[str]) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
        self.made.append(list(tasks))
        return gymnasium.vector.SyncVectorEnv(
            [lambda task=task: CountingEnv(task, self.last_step) for task in tasks]
        )


class EchoPolicy:
    """Answers with the tag of the environment's seed in [0, 1], and remembers what it was told."""

    name = "echo"

    def __init__(self) -> None:
        self.resets: list[tuple[list[str], list[int]]] = []
        self.paid: list[np.ndarray] = []

    def reset(self, tasks: Sequence[str], prompts: Any, seed: int | Sequence[int] = 0) -> None:
        self.resets.append((list(tasks), list(seed)))  # type: ignore[arg-type]
        self.paid = []

    def act(self, observations: np.ndarray) -> np.ndarray:
        assert observations.dtype == np.float32
        actions = np.zeros((len(observations), 2), np.float32)
        actions[:, 0] = observations[:, 0] / 1000
        return actions

    def observe(self, rewards: np.ndarray) -> None:
        assert rewards.dtype == np.float32
        self.paid.append(rewards)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def make_world() -> type[World]:
    return World


@pytest.fixture
def echo() -> EchoPolicy:
    return EchoPolicy()


@pytest.fixture
def make_echo() -> type[EchoPolicy]:
    return EchoPolicy
