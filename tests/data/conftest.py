"""Small stores that the data tests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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


@pytest.fixture(scope="session")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    """Episodes of very different lengths in three tasks, with labels of five classes, one empty."""
    lengths = [1, 7, 30, 3, 12, 25, 1, 2, 50, 9, 10, 11]
    store = write_store(
        tmp_path_factory.mktemp("data") / "uneven", lengths, [0, 1, 2, 0, 2, 1, 2, 0, 0, 1, 1, 0]
    )
    labels = np.random.default_rng(3).integers(0, 4, store.num_steps)
    store.write_labels("skills", np.where(labels == 2, 4, labels), 5)
    return store


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., EpisodeStore]:
    """Write a store of the given lengths and task indices in a fresh folder."""
    return lambda lengths, tasks, **settings: write_store(tmp_path / "store", lengths, tasks, **settings)
