"""What is in a store, in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from goskill.data.columns import manifest_entry
from goskill.data.store_files import size_of
from goskill.errors import StoreError

if TYPE_CHECKING:
    from goskill.data.store import EpisodeStore


def store_info(store: EpisodeStore) -> dict[str, Any]:
    """See :meth:`EpisodeStore.info`."""
    tasks = {}
    for index, name in enumerate(store.tasks):
        chosen = store.episode_task == index
        returns, lengths = store.episode_return[chosen], store.episode_length[chosen]
        tasks[name] = {
            "episodes": int(chosen.sum()),
            "steps": int(lengths.sum()),
            "return_mean": float(returns.mean()) if len(returns) else None,
            "return_best": float(returns.max()) if len(returns) else None,
        }
    return {
        "path": str(store.path),
        "unfinished": store.unfinished,
        "observation_dim": store.observation_dim,
        "action_dim": store.action_dim,
        "episodes": store.num_episodes,
        "steps": store.num_steps,
        "actions_outside": store.actions_outside,
        "columns": manifest_entry(store.columns),
        "episode_columns": manifest_entry(store.episode_columns),
        "constant_dimensions": np.flatnonzero(store.statistics.constant).tolist(),
        "rounding_dimensions": np.flatnonzero(store.statistics.rounding).tolist(),
        "shards": len(store.shard_folders),
        "bytes": _bytes(store),
        "prompts": _prompts_info(store),
        "labels": {name: store.num_classes(name) for name in store.label_names},
        "tasks": tasks,
        "provenance": store.provenance,
    }


def _prompts_info(store: EpisodeStore) -> dict[str, Any] | None:
    try:
        prompts = store.prompts
        size = 0 if prompts is None else _bytes(prompts)
    except StoreError as error:
        return {"fault": str(error)}
    if prompts is None:
        return None
    return {
        "unfinished": prompts.unfinished,
        "episodes": prompts.num_episodes,
        "steps": prompts.num_steps,
        "bytes": size,
    }


def _bytes(store: EpisodeStore) -> int:
    labels = (file for name in store.label_names for file in store.label_files(name))
    return sum(map(size_of, [*store.shard_files(), *labels]))
