"""What collects whole episodes of a suite: scripted experts that get better as an agent does, and random actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box

from goskill.envs.metaworld.tasks import episode_seed
from goskill.envs.suite import CollectedEpisode, CollectEpisode, Expert, Suite
from goskill.errors import InputError

POLICIES = ("scripted", "random")
_EXPERT_SHARE = 0.25
"""The last quarter of a task's episodes is the scripted policy alone."""
_LEAST_EXPERT_EPISODES = 4
"""As many as the prompts need."""
_RANDOM_RUN = 10.0
"""Mean length, in steps, of a stretch of random actions: as long as a skill."""
_EXPERT_NOISE = 0.3
"""Standard deviation of the noise on the scripted policy's own actions while exploration is full, in half ranges."""


def exploration(episode: int, episodes: int) -> float:
    """How random episode ``episode`` of ``episodes`` is: from 1 (random) down to 0 (the scripted policy).

    0 is reached after three quarters of the episodes, or earlier where four would not be left (but never
    before the half). The decay is convex because even a few random stretches spoil most episodes of the
    harder tasks.
    """
    expert = min(max(round(episodes * _EXPERT_SHARE), _LEAST_EXPERT_EPISODES), episodes - episodes // 2)
    return float(max(0.0, 1.0 - episode / max(episodes - expert, 1)) ** 2)


def collector_of(suite: Suite, policy: str, options: dict[str, Any]) -> CollectEpisode:
    """What rolls out episodes of a suite; ``options`` are what `Suite.prepare` gave.

    Raises InputError for a policy that is unknown or that the suite has not.
    """
    check_policy(suite, policy)
    if policy == "random":
        return EpisodeCollector(suite, _random, options)
    return suite.collector() or EpisodeCollector(suite, _annealed, options)


def check_policy(suite: Suite, policy: str) -> None:
    """Raises InputError for a policy that is unknown or that the suite has not."""
    if policy not in POLICIES:
        raise InputError(f"policy: expected one of {', '.join(POLICIES)}, got {policy!r}")
    scripted = suite.collector() is not None or all(
        suite.expert(task) is not None for task in suite.tasks[:1]
    )
    if policy == "scripted" and not scripted:
        raise InputError(f"policy: suite {suite.name!r} has no scripted policies: expected random")
    if not (np.isfinite(suite.action_space.low) & np.isfinite(suite.action_space.high)).all():
        raise InputError(
            f"suite {suite.name!r}: expected bounded actions to explore in, got {suite.action_space}"
        )


class EpisodeCollector:
    """Rolls out single episodes; keeps the environment of the latest task.

    ``begin(suite, task, level, generator)`` makes the policy of an episode that explores as much as ``level`` says.
    """

    def __init__(
        self,
        suite: Suite,
        begin: Callable[[Suite, str, float, np.random.Generator], Expert],
        options: dict[str, Any] | None = None,
    ) -> None:
        self._suite = suite
        self._begin = begin
        self._options = suite.prepare({}) if options is None else options
        self._task: str | None = None
        self._env: Any = None

    def __call__(self, task: str, episode: int, episodes: int, seed: int) -> CollectedEpisode:
        """Episode ``episode`` of a task's ``episodes``: a pure function of the arguments."""
        if task != self._task:
            if self._env is not None:
                self._env.close()
            (self._env,), self._task = self._suite.make_all([task], **self._options), task
        number = episode_seed(seed, task, episode, "collection")
        level = exploration(episode, episodes)
        policy = self._begin(self._suite, task, level, np.random.default_rng([number, 1]))
        return roll_out(self._suite, self._env, policy, number)


def roll_out(suite: Suite, env: Any, policy: Expert, seed: int) -> CollectedEpisode:
    """One episode from ``reset(seed=seed)`` to its end, or to the suite's ``max_steps``, where it is truncated."""
    observations = np.empty((suite.max_steps + 1, suite.observation_dim), np.float32)
    actions = np.empty((suite.max_steps, suite.action_dim), np.float32)
    rewards = np.empty(suite.max_steps, np.float32)
    success = np.zeros(suite.max_steps, np.bool_)
    reported = terminated = False
    observation, _ = env.reset(seed=seed)
    length = suite.max_steps
    for step in range(suite.max_steps):
        observations[step] = _shaped("observations", observation, observations)
        actions[step] = _shaped("actions", policy(observation), actions)
        observation, rewards[step], terminated, truncated, info = env.step(actions[step])
        told = next((info[key] for key in suite.success_keys if key in info), None)
        if told is not None and not np.isnan(told):
            reported, success[step] = True, told > 0
        if terminated or truncated:
            length = step + 1
            break
    observations[length] = _shaped("observations", observation, observations)
    ends = np.zeros((2, length), np.bool_)
    ends[:, -1] = terminated, not terminated
    return CollectedEpisode(
        observations[: length + 1],
        actions[:length],
        rewards[:length],
        ends[0],
        ends[1],
        success[:length] if reported else None,
    )


def _shaped(name: str, value: Any, rows: npt.NDArray[np.float32]) -> Any:
    """What goes into one of ``rows``. InputError for a shorter one, which NumPy would spread over the row."""
    if np.shape(value) != rows.shape[1:]:
        raise InputError(f"{name}: expected shape {rows.shape[1:]}, got {np.shape(value)}")
    return value


def _annealed(suite: Suite, task: str, level: float, generator: np.random.Generator) -> Expert:
    expert = suite.expert(task)
    if expert is None:
        raise InputError(
            f"policy: suite {suite.name!r} has no scripted policy of task {task!r}: expected random"
        )
    return Annealed(expert, suite.action_space, level, generator)


def _random(suite: Suite, task: str, level: float, generator: np.random.Generator) -> Expert:
    low, high = suite.action_space.low, suite.action_space.high
    return lambda observation: generator.uniform(low, high).astype(np.float32)


class Annealed:
    """An expert with stretches of random actions, and noise on the rest, as much as ``level`` says.

    Neither remembers the step before, as the noise of a stochastic policy does not: a model that sees past actions
    would otherwise learn to repeat its own.
    """

    def __init__(self, expert: Expert, space: Box, level: float, generator: np.random.Generator) -> None:
        self._expert = expert
        self._low, self._high = space.low, space.high
        self._half = (space.high.astype(np.float64) - space.low) / 2.0
        self._middle = (space.high.astype(np.float64) + space.low) / 2.0
        self._level = level
        self._generator = generator
        self._random = generator.random() < level
        # Leaving rates of the two states whose long-run share of random steps is the level.
        self._stop = min(1.0, (1.0 - level) / _RANDOM_RUN)
        self._start = 1.0 if level >= 1.0 else min(1.0, level / (1.0 - level) * self._stop)

    def __call__(self, observation: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        action = self._expert(observation)
        generator = self._generator
        noise = generator.standard_normal(len(self._half))
        leave = generator.random()
        chosen = (
            self._middle + self._half * noise
            if self._random
            else action + _EXPERT_NOISE * self._level * self._half * noise
        )
        if leave < (self._stop if self._random else self._start):
            self._random = not self._random
        return np.clip(chosen, self._low, self._high).astype(np.float32)
