"""Everything that agents experience while they learn, kept as a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goskill.data import EpisodeStore, StoreWriter
from goskill.data.store_files import MANIFEST
from goskill.errors import CheckpointError
from goskill.rollouts.collector import Steps

FloatArray = npt.NDArray[np.float32]
_UNKNOWN = -1


@dataclass
class _Episode:
    """An episode under way: lists of rows."""

    observations: list[FloatArray] = field(default_factory=list)
    actions: list[FloatArray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    success: list[int] = field(default_factory=list)


class Experience:
    """Writes the episodes of environments into a store, in the order in which they end.

    A checkpoint makes everything before it durable first, and keeps the episodes under way. A run that is resumed lives
    through the same episodes again; those that are in the store already are not written twice.

    Args:
        path: the store. Nothing is written before the first episode ends.
        sizes: of observations and actions.
        tasks: of each environment.
        provenance: of the store.
    """

    def __init__(
        self, path: Path, sizes: tuple[int, int], tasks: Sequence[str], provenance: Mapping[str, Any]
    ) -> None:
        self.path = path
        self._sizes, self._tasks, self._provenance = sizes, list(tasks), dict(provenance)
        self._under_way = [_Episode() for _ in tasks]
        self._ended = 0  # episodes of the run so far
        self._written = 0  # episodes in the store
        self._writer: StoreWriter | None = None

    def add(self, step: Steps) -> None:
        """A step of every environment."""
        over = step.terminated | step.truncated
        for row, episode in enumerate(self._under_way):
            if not episode.observations:
                episode.observations.append(step.observations[row].copy())
            episode.observations.append(step.next_observations[row].copy())
            episode.actions.append(step.actions[row].copy())
            episode.rewards.append(float(step.rewards[row]))
            episode.success.append(_UNKNOWN if np.isnan(step.success[row]) else int(step.success[row]))
            if over[row]:
                self._end(row, bool(step.terminated[row]))

    def finish(self) -> None:
        """Write the episodes under way as truncated ones, and say that the store is whole."""
        for row, episode in enumerate(self._under_way):
            if episode.actions:
                self._end(row, terminated=False)
        writer = self._open()
        writer.finish()
        writer.close()
        self._writer = None

    def state_dict(self) -> dict[str, Any]:
        """How many episodes have ended, all of which are on disk then, and those under way."""
        if self._writer is not None:
            self._writer.flush()
        under_way = self._under_way
        return {
            "ended": self._ended,
            "lengths": [len(one.actions) for one in under_way],
            "observations": _stacked([row for one in under_way for row in one.observations], self._sizes[0]),
            "actions": _stacked([row for one in under_way for row in one.actions], self._sizes[1]),
            "rewards": np.array([value for one in under_way for value in one.rewards], np.float64),
            "success": np.array([value for one in under_way for value in one.success], np.int8),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Raises CheckpointError for a store that lacks episodes which have ended by then."""
        self._ended = int(state["ended"])
        there = EpisodeStore.open(self.path).num_episodes if (self.path / MANIFEST).exists() else 0
        if there < self._ended:
            raise CheckpointError(
                f"{self.path}: expected at least {self._ended} episodes, as the checkpoint says, got {there}"
            )
        self._written = there
        lengths = [int(length) for length in state["lengths"]]
        states = np.cumsum([0, *(length + 1 if length else 0 for length in lengths)])
        steps = np.cumsum([0, *lengths])
        rows = {name: np.asarray(state[name]) for name in ("observations", "actions", "rewards", "success")}
        self._under_way = [
            _Episode(
                [row.astype(np.float32) for row in rows["observations"][states[i] : states[i + 1]]],
                [row.astype(np.float32) for row in rows["actions"][steps[i] : steps[i + 1]]],
                [float(value) for value in rows["rewards"][steps[i] : steps[i + 1]]],
                [int(value) for value in rows["success"][steps[i] : steps[i + 1]]],
            )
            for i in range(len(lengths))
        ]

    def _end(self, row: int, terminated: bool) -> None:
        episode, self._under_way[row] = self._under_way[row], _Episode()
        if self._ended >= self._written:
            success = np.array(episode.success)
            self._open().append(
                task=self._tasks[row],
                observations=np.stack(episode.observations),
                actions=np.stack(episode.actions),
                rewards=np.array(episode.rewards, np.float32),
                success=None if (success == _UNKNOWN).all() else success > 0,
                columns={"terminated": terminated, "truncated": not terminated},
            )
            self._written += 1
        self._ended += 1

    def _open(self) -> StoreWriter:
        if self._writer is None:
            self._writer = StoreWriter(
                self.path,
                *self._sizes,
                list(dict.fromkeys(self._tasks)),
                provenance=self._provenance,
                append=True,
                unfinished=True,
                columns={"terminated": bool, "truncated": bool},
            )
        return self._writer


def _stacked(rows: Sequence[FloatArray], width: int) -> FloatArray:
    return np.stack(rows) if rows else np.zeros((0, width), np.float32)
