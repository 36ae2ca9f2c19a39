"""One shard of a store in the making."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data.columns import EVERY_STORE, Columns
from goskill.data.episode import CheckedBlock
from goskill.data.layout import SHARD_FORMAT, VERSION
from goskill.data.normalization import Statistics
from goskill.data.store_files import MANIFEST, ColumnWriter, publish_folder, temporary_folder, write_manifest


class ShardWriter:
    """The shard being written, in a folder that readers do not see."""

    def __init__(self, store: Path, observation_dim: int, action_dim: int, declared: Columns) -> None:
        self.folder = temporary_folder(store)
        self.steps = 0
        self.episodes = 0
        self.actions_outside = 0
        self.statistics = Statistics.empty(observation_dim)
        self.columns: dict[str, ColumnWriter] = {}
        widths = {"observations": (observation_dim,), "actions": (action_dim,)}
        for name, descr in EVERY_STORE.items():
            self.columns[name] = ColumnWriter(self.folder, name, descr, widths.get(name, ()))
        for name, type_ in declared.items():
            self.columns[name] = ColumnWriter(self.folder, name, type_.base.str, type_.shape)

    def append(
        self,
        tasks: npt.NDArray[np.int64],
        block: CheckedBlock,
        returns_to_go: npt.NDArray[np.float64],
        declared: Mapping[str, npt.NDArray[Any]],
    ) -> None:
        episodes, length = block.rewards.shape
        rows: dict[str, npt.NDArray[Any]] = {
            "observations": block.observations.reshape(-1, block.observations.shape[2]),
            "actions": block.actions.reshape(-1, block.actions.shape[2]),
            "rewards": block.rewards.reshape(-1),
            "returns_to_go": returns_to_go.reshape(-1),
            "success": block.success.reshape(-1),
            "episode_start": self.steps + length * np.arange(episodes),
            "episode_length": np.full(episodes, length),
            "episode_task": tasks,
            "episode_return": returns_to_go[:, 0],
            **declared,
        }
        for name, values in rows.items():
            self.columns[name].write(values)
        self.statistics = self.statistics.merge(block.statistics)
        self.steps += episodes * length
        self.episodes += episodes
        if not -1 <= block.actions.min() <= block.actions.max() <= 1:
            self.actions_outside += int((np.abs(block.actions) > 1).any(axis=2).sum())

    def publish(self, target: Path, provenance: Mapping[str, Any], note: Mapping[str, Any]) -> None:
        # At once, since a disk makes several files durable in the time of one.
        with ThreadPoolExecutor(len(self.columns)) as pool:
            entries = pool.map(ColumnWriter.finish, self.columns.values())
            columns = dict(zip(self.columns, entries, strict=True))
        content = {
            "format": SHARD_FORMAT,
            "version": VERSION,
            "steps": self.steps,
            "episodes": self.episodes,
            "actions_outside": self.actions_outside,
            "columns": columns,
            "statistics": self.statistics.to_json(),
            "provenance": dict(provenance),
            "note": dict(note),
        }
        write_manifest(self.folder / MANIFEST, content)
        publish_folder(self.folder, target)

    def discard(self) -> None:
        for column in self.columns.values():
            column.abandon()
        shutil.rmtree(self.folder, ignore_errors=True)
