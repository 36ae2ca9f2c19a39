"""Episodes of MetaWorld's scripted policies, from random to expert as in a replay buffer."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.envs.metaworld.environment import ACTION_DIM, EPISODE_STEPS, OBSERVATION_DIM, make
from goskill.envs.metaworld.tasks import episode_seed, task_name

_EXPERT_SHARE = 0.25
"""The last quarter of a task's episodes is the scripted policy alone."""
_LEAST_EXPERT_EPISODES = 4
"""As many as the prompts need."""
_RANDOM_RUN = 10.0
"""Mean length, in steps, of a stretch of random actions: as long as a skill."""
_EXPERT_NOISE = 0.3
"""Standard deviation of the noise on the scripted policy's own actions while exploration is full."""


@dataclass(frozen=True)
class ScriptedEpisode:
    """One whole episode.

    ``observations`` float32 [501, 39], ``actions`` float32 [500, 4], ``rewards`` float32 [500], ``success``
    bool [500].
    """

    observations: npt.NDArray[np.float32]
    actions: npt.NDArray[np.float32]
    rewards: npt.NDArray[np.float32]
    success: npt.NDArray[np.bool_]


def exploration(episode: int, episodes: int) -> float:
    """How random episode ``episode`` of ``episodes`` is: from 1 (random) down to 0 (the scripted policy).

    0 is reached after three quarters of the episodes, or earlier where four would not be left (but never
    before the half). The decay is convex because even a few random stretches spoil most episodes of the
    harder tasks.
    """
    expert = min(max(round(episodes * _EXPERT_SHARE), _LEAST_EXPERT_EPISODES), episodes - episodes // 2)
    return float(max(0.0, 1.0 - episode / max(episodes - expert, 1)) ** 2)


class ScriptedExpert:
    """MetaWorld's scripted policy of one task, in float64, clipped to the action space."""

    def __init__(self, task: str) -> None:
        from metaworld.policies import ENV_POLICY_MAP

        policy_class: Any = ENV_POLICY_MAP[f"{task_name(task)}-v3"]
        self._policy = policy_class()

    def __call__(self, observation: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """Action float32 [4] in [-1, 1] for an observation [39] with a visible goal, float64 or float32."""
        with warnings.catch_warnings():
            # The policies warn that the environment clips; here the action is clipped before it is used.
            warnings.simplefilter("ignore")
            action = np.asarray(self._policy.get_action(np.asarray(observation, np.float64)), np.float32)
        return np.clip(action, -1.0, 1.0)


class _Exploration:
    """Stretches of random actions, and noise on the rest, as much as ``level`` says.

    Neither remembers the step before, as the noise of a stochastic policy does not: a model that sees past actions
    would otherwise learn to repeat its own.
    """

    def __init__(self, level: float, generator: np.random.Generator) -> None:
        self._level = level
        self._generator = generator
        self._random = generator.random() < level
        # Leaving rates of the two states whose long-run share of random steps is the level.
        self._stop = min(1.0, (1.0 - level) / _RANDOM_RUN)
        self._start = 1.0 if level >= 1.0 else min(1.0, level / (1.0 - level) * self._stop)

    def __call__(self, action: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        generator = self._generator
        noise = generator.standard_normal(ACTION_DIM)
        leave = generator.random()
        chosen = noise if self._random else action + _EXPERT_NOISE * self._level * noise
        if leave < (self._stop if self._random else self._start):
            self._random = not self._random
        return np.clip(chosen, -1.0, 1.0).astype(np.float32)


class ScriptedCollector:
    """Rolls out single episodes; keeps the environment of the latest task. ``impl`` is `goskill.envs.make`'s."""

    def __init__(self, impl: str = "auto") -> None:
        self._impl = impl
        self._task: str | None = None
        self._env: Any = None

    def __call__(self, task: str, episode: int, episodes: int, seed: int) -> ScriptedEpisode:
        """Episode ``episode`` of a task's ``episodes``: a pure function of the arguments."""
        if task != self._task:
            self._env, self._task = make(task, 0, impl=self._impl), task
        episode_number = episode_seed(seed, task, episode, "collection")
        explore = _Exploration(exploration(episode, episodes), np.random.default_rng([episode_number, 1]))
        policy = ScriptedExpert(task)
        observations = np.empty((EPISODE_STEPS + 1, OBSERVATION_DIM), np.float32)
        actions = np.empty((EPISODE_STEPS, ACTION_DIM), np.float32)
        rewards = np.empty(EPISODE_STEPS, np.float32)
        success = np.empty(EPISODE_STEPS, np.bool_)
        observation, _ = self._env.reset(seed=episode_number)
        for step in range(EPISODE_STEPS):
            observations[step] = observation
            actions[step] = explore(policy(observation))
            observation, rewards[step], _, _, info = self._env.step(actions[step])
            success[step] = info["success"] > 0.0
        observations[EPISODE_STEPS] = observation
        return ScriptedEpisode(observations, actions, rewards, success)
