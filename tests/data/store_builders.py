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


DECLARED = {"terminated": bool, "feature": ("f2", (3,)), "sub_task": "u2", "kept": ("?", 2)}


def write_declaring_store(path: Path, lengths: Sequence[int], tasks: Sequence[int]) -> EpisodeStore:
    """As :func:`write_store`, with declared columns; every other episode ends for good. Labels of four classes."""
    names = [f"task-{i}" for i in range(max(tasks, default=0) + 1)]
    generator = np.random.default_rng(len(lengths))
    with StoreWriter(path, OBSERVATION_DIM, ACTION_DIM, names, shard_steps=40, columns=DECLARED) as writer:
        for index, (length, task) in enumerate(zip(lengths, tasks, strict=True)):
            columns = {
                "terminated": index % 2 == 0,
                "feature": generator.standard_normal((length, 3)),
                "sub_task": generator.integers(0, 2**16, length),
                "kept": generator.integers(0, 2, (length, 2)),
            }
            writer.append(task=names[task], **random_episode(generator, length), columns=columns)
    store = EpisodeStore.open(path)
    labels = generator.integers(0, 4, store.num_steps)
    store.write_labels("skills", np.where(labels == 2, 4, labels), 5)
    return store
