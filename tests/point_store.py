"""A store of walks on the line of ``point_suite``, for tests of skills that are learned and then used there."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from goskill.data import EpisodeStore, StoreWriter


def point_store(path: Path, episodes: int = 12, steps: int = 14) -> EpisodeStore:
    """Each episode keeps to one direction for a few steps, then to another; the goal is not walked to."""
    random = np.random.default_rng(0)
    with StoreWriter(path, 2, 1, ["play"]) as writer:
        for _ in range(episodes):
            pushes = np.repeat(random.choice([-1.0, 1.0], -(-steps // 4)), 4)[:steps]
            actions = np.clip(pushes + random.normal(0, 0.1, steps), -1, 1)[:, None]
            places = random.uniform(-0.5, 0.5) + 0.1 * np.concatenate([[0.0], actions[:, 0].cumsum()])
            observations = np.stack([places, np.full(steps + 1, random.choice([-1.0, 1.0]))], 1)
            writer.append(
                task="play",
                observations=observations.astype(np.float32),
                actions=actions.astype(np.float32),
                rewards=np.zeros(steps, np.float32),
            )
    return EpisodeStore.open(path)
