"""Random episodes and small stores for the data tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from goskill.data import EpisodeStore, StoreWriter

OBSERVATION_DIM = 5
ACTION_DIM = 2


def random_episode(generator: np.random.Generator, length: int) -> dict[str, np.ndarray]:
    """The arrays of one episode of standard normal values."""
    return {
        "observations": generator.standard_normal((length + 1, OBSERVATION_DIM)).astype(np.float32),
        "actions": generator.standard_normal((length, ACTION_DIM)).astype(np.float32),
        "rewards": generator.standard_normal(length).astype(np.float32),
    }


def write_store(path: Path, lengths: Sequence[int], tasks: Sequence[int], **settings: Any) -> EpisodeStore:
    """A store of random episodes with these lengths and task indices, over several shards."""
    names = [f"task-{i}" for i in range(max(tasks, default=0) + 1)]
    generator = np.random.default_rng(sum(lengths))
    with StoreWriter(path, OBSERVATION_DIM, ACTION_DIM, names, shard_steps=40, **settings) as writer:
        for length, task in zip(lengths, tasks, strict=True):
            writer.append(task=names[task], **random_episode(generator, length))
    return EpisodeStore.open(path)


def transitions(
    generator: np.random.Generator, length: int, dtype: type = np.float32
) -> dict[str, np.ndarray]:
    """One episode as the datasets hold it: flat transitions with their next observations."""
    episode = random_episode(generator, length)
    return {
        "observations": episode["observations"][:-1].astype(dtype),
        "next_observations": episode["observations"][1:].astype(dtype),
        "actions": episode["actions"].astype(dtype),
        "rewards": episode["rewards"].astype(dtype)[:, None],
        "terminals": np.zeros((length, 1), dtype=dtype),
    }
