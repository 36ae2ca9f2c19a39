"""Which episodes a method learns from."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from goskill.data import EpisodeStore
from goskill.errors import InputError


def check_share(name: str, share: float) -> None:
    """Raises InputError for a share of episodes outside of (0, 1]."""
    if not 0 < share <= 1:
        raise InputError(f"{name}: expected a number above 0 and at most 1, got {share!r}")


def best_share(store: EpisodeStore, share: float) -> npt.NDArray[np.int64] | None:
    """Indices int64 [n] of each task's best episodes by return, in the store's order; None for all of them.

    ``share`` of a task's episodes in (0, 1], rounded up, so that every task with episodes keeps at least one.
    """
    if share == 1:
        return None
    counts = np.bincount(store.episode_task, minlength=len(store.tasks))
    chosen = [
        store.best_episodes(task, math.ceil(share * count))
        for task, count in zip(store.tasks, counts.tolist(), strict=True)
    ]
    return np.sort(np.concatenate([np.asarray(indices, np.int64) for indices in chosen]))
