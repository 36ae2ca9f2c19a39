"""The columns that a store declares, beside those that every store has."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill import _core
from goskill.data.columns import Array, checked_texts
from goskill.data.layout import StoreLayout
from goskill.errors import InputError, closest


class DeclaredColumns:
    """Reads the declared columns of an open store."""

    def __init__(self, layout: StoreLayout, native: _core.Store) -> None:
        self._layout, self._native = layout, native
        self._shards = range(len(layout.shards))
        self._steps: dict[str, list[Array]] = {}
        self._episodes: dict[str, Array] = {}

    def of_steps(self, name: str) -> list[Array]:
        """See :meth:`EpisodeStore.column`."""
        if name not in self._steps:
            self._check("column", name, self._layout.columns)
            self._steps[name] = [self._native.shard_rows(name, shard) for shard in self._shards]
        return self._steps[name]

    def of_episodes(self, name: str) -> Array:
        """See :meth:`EpisodeStore.episode_column`."""
        if name not in self._episodes:
            self._check("episode_column", name, self._layout.episode_columns)
            type_ = self._layout.episode_columns[name]
            parts = [self._native.shard_entries(name, shard) for shard in self._shards]
            if type_.base.kind == "U":
                parts = [checked_texts(f"{self._layout.path}: {name}", part) for part in parts]
            self._episodes[name] = np.concatenate([np.empty((0, *type_.shape), type_.base), *parts])
        return self._episodes[name]

    def of_episode(self, index: int) -> tuple[dict[str, Array], dict[str, Any]]:
        """Of one episode: the rows of its steps, and its own entries, each by the column's name."""
        shard = int(np.searchsorted(self._first_of_shard, index, side="right")) - 1
        first = self._start[index] - self._start[self._first_of_shard[shard]]
        rows = slice(first, first + self._length[index])
        entries = {name: self.of_episodes(name)[index] for name in self._layout.episode_columns}
        return {name: self.of_steps(name)[shard][rows] for name in self._layout.columns}, {
            name: entry if self._layout.episode_columns[name].shape else entry.item()
            for name, entry in entries.items()
        }

    def _check(self, argument: str, name: str, declared: Mapping[str, Any]) -> None:
        if name not in declared:
            known = closest(str(name), declared) if declared else "it declares none"
            raise InputError(
                f"{argument}: expected a column that {self._layout.path} declares, got {name!r:.80}; {known}"
            )

    @cached_property
    def _start(self) -> npt.NDArray[np.int64]:
        return self._native.episode_start()

    @cached_property
    def _length(self) -> npt.NDArray[np.int64]:
        return self._native.episode_length()

    @cached_property
    def _first_of_shard(self) -> npt.NDArray[np.int64]:
        """The first episode of each shard, int64 [shards]."""
        counts = [shard.episodes for shard in self._layout.shards]
        return np.cumsum([0, *counts[:-1]], dtype=np.int64)
