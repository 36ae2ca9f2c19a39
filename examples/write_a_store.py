"""Write your own episodes into a store: anything that yields whole episodes will do.

Run: python write_a_store.py OUT
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

from goskill.data import EpisodeStore, SegmentSampler, StoreWriter


def episodes() -> Iterator[dict]:
    """Stands for your data: observations [T + 1, 39] with the final one, actions [T, 4], rewards [T]."""
    generator = np.random.default_rng(0)
    for number in range(20):
        length = int(generator.integers(50, 200))
        yield {
            "task": ["reach", "push"][number % 2],
            "observations": generator.standard_normal((length + 1, 39)),
            "actions": generator.uniform(-1, 1, (length, 4)),
            "rewards": generator.random(length),
        }


def main(path: str) -> None:
    with StoreWriter(path, observation_dim=39, action_dim=4, tasks=["reach", "push"]) as writer:
        for episode in episodes():
            writer.append(**episode)
    store = EpisodeStore.open(path)
    batch = next(SegmentSampler(store, horizon=10, batch_size=8))
    print(store)
    print({name: tuple(tensor.shape) for name, tensor in batch.items()})


if __name__ == "__main__":
    main(sys.argv[1])
