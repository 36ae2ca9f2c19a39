"""Scripted episodes of the kitchen: task-agnostic ones, and demonstrations of a task."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from goskill.envs.kitchen.environment import EPISODE_STEPS, KitchenEnv
from goskill.envs.kitchen.hand import HandStyle
from goskill.envs.kitchen.scripted import ScriptedKitchen
from goskill.envs.kitchen.simulation import ACTION_DIM, OBSERVATION_DIM
from goskill.envs.kitchen.tasks import PLAY, SUBTASKS, KitchenTask, kitchen_task
from goskill.envs.metaworld.tasks import episode_seed
from goskill.envs.suite import CollectedEpisode

PLAY_SUBTASKS = 4
"""How many sub-tasks an episode of `PLAY` does."""
MOST_NOISE = 0.1
_MOST_WANDER = 8
_LABELS = {name: number for number, name in enumerate(SUBTASKS)}


class KitchenCollector:
    """Rolls out single episodes: sub-tasks one after the other, by another demonstrator each time.

    Episodes of ``kitchen-play`` do four sub-tasks drawn at random and end when the arm has drawn back from the last;
    those of another task do its sub-tasks, in random order where it has none, and end where its episodes end, or
    when the script gives up. They begin with up to 8 steps of wandering; actions have noise of a standard
    deviation between 0 and 0.1. ``success`` says that all sub-tasks of the episode have been done.

    The column ``subtask`` names what the script is at, by its place in `SUBTASKS`, -1 while it wanders.
    """

    def __init__(self) -> None:
        self._env: KitchenEnv | None = None

    def __call__(self, task: str, episode: int, episodes: int, seed: int) -> CollectedEpisode:
        """Episode ``episode`` of a task's ``episodes``: a pure function of the arguments."""
        chosen = kitchen_task(task)
        number = episode_seed(seed, chosen.name, episode, "collection")
        generator = np.random.default_rng([number, 1])
        if self._env is None or self._env.task != chosen:
            self._env = KitchenEnv(chosen)
        policy = ScriptedKitchen(
            _order(chosen, generator),
            generator,
            style=HandStyle.drawn(generator),
            noise=generator.uniform(0.0, MOST_NOISE),
            wander=_MOST_WANDER,
        )
        return _roll_out(self._env, policy, number)


def _order(task: KitchenTask, generator: np.random.Generator) -> list[str]:
    if task.ordered:
        return list(task.subtasks)
    shuffled = [task.subtasks[index] for index in generator.permutation(len(task.subtasks))]
    return shuffled[:PLAY_SUBTASKS] if task.name == PLAY else shuffled


def _roll_out(env: KitchenEnv, policy: ScriptedKitchen, seed: int) -> CollectedEpisode:
    observations = np.empty((EPISODE_STEPS + 1, OBSERVATION_DIM), np.float32)
    actions = np.empty((EPISODE_STEPS, ACTION_DIM), np.float32)
    rewards = np.empty(EPISODE_STEPS, np.float32)
    success = np.empty(EPISODE_STEPS, np.bool_)
    subtasks = np.empty(EPISODE_STEPS, np.int8)
    observation, _ = env.reset(seed=seed)
    length, terminated = 0, False
    while length < EPISODE_STEPS and not terminated:
        action = policy(observation)
        if policy.finished:
            break
        observations[length], actions[length] = observation, action
        subtasks[length] = _LABELS.get(policy.subtask or "", -1)
        observation, rewards[length], terminated, _, _ = env.step(action)
        policy.look(observation)
        success[length] = policy.completed >= set(policy.subtasks)
        length += 1
    observations[length] = observation
    ends: npt.NDArray[np.bool_] = np.zeros((2, length), np.bool_)
    ends[:, -1] = terminated, not terminated
    return CollectedEpisode(
        observations[: length + 1],
        actions[:length],
        rewards[:length],
        ends[0],
        ends[1],
        success[:length],
        columns={"subtask": subtasks[:length]},
        episode_columns={"order": ",".join(policy.subtasks)},
    )
