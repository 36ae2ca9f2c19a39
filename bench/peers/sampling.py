"""Batches of MetaWorld's shapes from arrays in memory, with NumPy: vectorised, and sample by sample."""

from __future__ import annotations

import numpy as np

from goskill.data import EpisodeStore

HORIZON, CONTEXT, PROMPT = 10, 20, 10
SEGMENTS, CONTEXTS, TRANSITIONS = 800, 400, 1280
TASKS = [f"task-{i:02d}" for i in range(50)]
STEPS = 500
RETURN_SCALE = 1000.0

Arrays = dict[str, np.ndarray]


class NumpySegments:
    """Segment batches by fancy indexing of whole arrays: one gather each for states and actions."""

    def __init__(self, store: EpisodeStore, columns: Arrays) -> None:
        self.generator = np.random.default_rng(0)
        self.columns = columns
        self.by_task = np.stack([np.flatnonzero(store.episode_task == task) for task in range(len(TASKS))])
        self.tasks = np.arange(SEGMENTS) % len(TASKS)

    def __call__(self) -> Arrays:
        choice = self.generator.integers(0, self.by_task.shape[1], SEGMENTS)
        start = self.generator.integers(0, STEPS, SEGMENTS)
        return self.gather(self.by_task[self.tasks, choice], start)

    def gather(self, episode: np.ndarray, start: np.ndarray) -> Arrays:
        return {**self.windows(episode, start), "start": start, "episode": episode}

    def windows(self, episode: np.ndarray, start: np.ndarray) -> Arrays:
        offsets = start[:, None] + np.arange(HORIZON + 1)
        mask = offsets[:, :-1] < STEPS
        rows = episode[:, None] * (STEPS + 1) + np.minimum(offsets, STEPS)
        observations = self.columns["observations"][rows]
        observations[:, :-1][~mask] = 0
        actions = self.columns["actions"][episode[:, None] * STEPS + np.minimum(offsets[:, :-1], STEPS - 1)]
        actions[~mask] = 0
        return {"observations": observations, "actions": actions, "mask": mask}


class LoopSegments(NumpySegments):
    """Segment batches one sample at a time, without any of the detours that training code takes."""

    def windows(self, episode: np.ndarray, start: np.ndarray) -> Arrays:
        observations = np.zeros((SEGMENTS, HORIZON + 1, 39), np.float32)
        actions = np.zeros((SEGMENTS, HORIZON, 4), np.float32)
        mask = np.zeros((SEGMENTS, HORIZON), bool)
        for i in range(SEGMENTS):
            first, step = int(episode[i]), int(start[i])
            steps = np.arange(step, min(step + HORIZON, STEPS))
            rows = len(steps)
            states = self.columns["observations"][first * (STEPS + 1) : (first + 1) * (STEPS + 1)]
            observations[i, :rows] = states[steps]
            observations[i, HORIZON] = states[min(step + HORIZON, STEPS)]
            actions[i, :rows] = self.columns["actions"][first * STEPS : (first + 1) * STEPS][steps]
            mask[i, :rows] = True
        return {"observations": observations, "actions": actions, "mask": mask}


class NumpyTransitions:
    """Transitions by fancy indexing of whole arrays, uniform over the steps."""

    def __init__(self, columns: Arrays) -> None:
        self.generator = np.random.default_rng(0)
        self.columns = columns
        self.steps = len(columns["rewards"])

    def __call__(self) -> Arrays:
        step = self.generator.integers(0, self.steps, TRANSITIONS)
        return self.gather(step // STEPS, step % STEPS)

    def gather(self, episode: np.ndarray, start: np.ndarray) -> Arrays:
        step = episode * STEPS + start
        state = step + episode  # every episode before has one state more than steps
        return {
            "observations": self.columns["observations"][state],
            "actions": self.columns["actions"][step],
            "rewards": self.columns["rewards"][step],
            "next_observations": self.columns["observations"][state + 1],
            "terminated": self.columns["terminated"][step],
        }


class NumpyContexts:
    """Context batches by fancy indexing of whole arrays."""

    def __init__(self, store: EpisodeStore, columns: Arrays) -> None:
        self.generator = np.random.default_rng(0)
        self.columns = columns
        self.by_task = np.stack([np.flatnonzero(store.episode_task == task) for task in range(len(TASKS))])
        self.best = np.array([store.best_episodes(task, 4) for task in TASKS])
        self.tasks = np.arange(CONTEXTS) % len(TASKS)

    def __call__(self) -> Arrays:
        episode = self.by_task[self.tasks, self.generator.integers(0, self.by_task.shape[1], CONTEXTS)]
        prompt = self.best[self.tasks, self.generator.integers(0, 4, CONTEXTS)]
        start = self.generator.integers(0, STEPS, CONTEXTS) - (CONTEXT - 1) * HORIZON
        return self.gather(episode, start, prompt)

    def gather(self, episode: np.ndarray, start: np.ndarray, prompt: np.ndarray) -> Arrays:
        prompt_start = np.full(CONTEXTS, STEPS - PROMPT * HORIZON)
        windows = self.window(prompt, prompt_start, PROMPT)
        return {
            **self.window(episode, start, CONTEXT),
            **{f"prompt_{name}": value for name, value in windows.items()},
            "start": start,
            "episode": episode,
            "prompt_episode": prompt,
        }

    def window(self, episode: np.ndarray, start: np.ndarray, points: int) -> Arrays:
        steps = start[:, None] + np.arange(points) * HORIZON
        mask = steps >= 0
        real = np.maximum(steps, 0)
        observations = self.columns["observations"][episode[:, None] * (STEPS + 1) + real]
        observations[~mask] = 0
        returns_to_go = self.columns["returns_to_go"][episode[:, None] * STEPS + real] / np.float32(
            RETURN_SCALE
        )
        returns_to_go[~mask] = 0
        timesteps = real // HORIZON
        return {
            "observations": observations,
            "returns_to_go": returns_to_go[..., None],
            "timesteps": timesteps,
            "mask": mask,
        }
