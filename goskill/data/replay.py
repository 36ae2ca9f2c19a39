"""A replay buffer: transitions that an agent makes while it learns, for one agent or for several side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goskill.errors import InputError

Columns = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
_GROWTH = 4_096  # rows that are allocated at least


class ReplayBuffer:
    """The newest ``capacity`` rows of each of ``agents`` agents, which all add as many at a time.

    ``columns`` name what a row holds: dtype and shape. Memory grows with what is added. ``state_dict`` holds the rows
    that there are, so that a run resumes with the same ones.
    """

    def __init__(self, capacity: int, columns: Columns, agents: int = 1) -> None:
        for name, value in (("capacity", capacity), ("agents", agents)):
            if value < 1:
                raise InputError(f"{name}: expected at least 1, got {value}")
        self.capacity, self.agents = capacity, agents
        self.columns = dict(columns)
        self.added = 0  # rows of each agent so far, those that are gone included
        self._rows: dict[str, Tensor] = self._allocate(0)

    def __len__(self) -> int:
        """Rows of each agent."""
        return min(self.added, self.capacity)

    def add(self, rows: Mapping[str, npt.ArrayLike]) -> None:
        """Add rows [agents, n, ...] of every column; the oldest go when there is no more room.

        Raises InputError for columns that are missing, unknown or misshapen, and for more rows than the capacity.
        """
        given = {name: torch.as_tensor(np.asarray(value)) for name, value in rows.items()}
        if given.keys() != self.columns.keys():
            raise InputError(f"rows: expected columns {', '.join(self.columns)}, got {', '.join(given)}")
        count = next(iter(given.values())).shape[1] if next(iter(given.values())).ndim > 1 else 0
        for name, (dtype, shape) in self.columns.items():
            expected = (self.agents, count, *shape)
            if tuple(given[name].shape) != expected or not 0 < count <= self.capacity:
                raise InputError(
                    f"rows: expected {name} of shape {expected} with 1 to {self.capacity} rows, "
                    f"got {tuple(given[name].shape)}"
                )
            given[name] = given[name].to(dtype)
        self._grow(min(self.added + count, self.capacity))
        places = torch.arange(self.added, self.added + count) % self.capacity
        for name, value in given.items():
            self._rows[name].index_copy_(1, places, value)
        self.added += count

    def sample(self, count: int, seed: int, step: int) -> dict[str, Tensor]:
        """``count`` rows of each agent, drawn with replacement: [agents, count, ...], a function of seed and step.

        Raises InputError for an empty buffer.
        """
        if not len(self):
            raise InputError("replay: expected at least one row to draw from, got none")
        random = np.random.Generator(np.random.Philox(key=[seed, step]))
        places = torch.from_numpy(random.integers(0, len(self), (self.agents, count)))
        agent = torch.arange(self.agents)[:, None]
        return {name: value[agent, places] for name, value in self._rows.items()}

    def state_dict(self) -> dict[str, Any]:
        """The rows that there are, and how many there were."""
        return {
            "added": self.added,
            "rows": {name: value[:, : len(self)] for name, value in self._rows.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hold what :meth:`state_dict` gave. Raises InputError for rows of other columns."""
        rows = state["rows"]
        if rows.keys() != self.columns.keys():
            raise InputError(f"replay: expected columns {', '.join(self.columns)}, got {', '.join(rows)}")
        self.added = int(state["added"])
        self._rows = {name: value.clone() for name, value in rows.items()}

    def _grow(self, needed: int) -> None:
        room = next(iter(self._rows.values())).shape[1]
        if room >= needed:
            return
        larger = self._allocate(min(max(needed, 2 * room, _GROWTH), self.capacity))
        for name, value in self._rows.items():
            larger[name][:, :room] = value
        self._rows = larger

    def _allocate(self, room: int) -> dict[str, Tensor]:
        return {
            name: torch.zeros(self.agents, room, *shape, dtype=dtype)
            for name, (dtype, shape) in self.columns.items()
        }


class ReplayStream:
    """An endless stream of batches of a buffer, whose position is a step."""

    def __init__(self, buffer: ReplayBuffer, count: int, seed: int) -> None:
        self._buffer, self._count, self._seed = buffer, count, seed
        self._step = 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            batch = self._buffer.sample(self._count, self._seed, self._step)
            self._step += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The step of the next batch."""
        return {"step": self._step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on at a step."""
        self._step = int(state["step"])
