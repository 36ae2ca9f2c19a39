"""Small stores that the data tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from store_builders import write_declaring_store, write_store

from goskill.data import EpisodeStore


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


@pytest.fixture(scope="session")
def declaring(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    """Episodes of very different lengths in three tasks, with declared columns, and labels of five classes."""
    lengths, tasks = [1, 7, 30, 3, 12, 25, 1, 2, 50, 9, 10, 11], [0, 1, 2, 0, 2, 1, 2, 0, 0, 1, 1, 0]
    return write_declaring_store(tmp_path_factory.mktemp("data") / "declaring", lengths, tasks)


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., EpisodeStore]:
    """Write a store of the given lengths and task indices in a fresh folder."""
    return lambda lengths, tasks, **settings: write_store(tmp_path / "store", lengths, tasks, **settings)


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    """Five episodes of two tasks, with labels of three classes."""
    store = write_store(tmp_path / "store", [5, 40, 3, 30, 8], [0, 1, 0, 1, 0])
    store.write_labels("skills", np.arange(store.num_steps) % 3, 3)
    return store
